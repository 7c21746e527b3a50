import pytest

from dhp_sr.utils.errors import UserError, exit_code, nearest


def fail(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_command_that_ends_well(returned, code):
    assert exit_code(lambda: returned) == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("no such file"), "error: no such file\n"),
        (OSError("disk full"), "cannot read or write: disk full"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nhint"), "allocate 2 GiB\n"),
    ],
)
def test_a_mistake_is_one_message(error, text, capsys):
    assert exit_code(fail(error)) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("fault", [ZeroDivisionError(), RuntimeError("shapes differ")])
def test_a_fault_of_ours_is_not_hidden(fault):
    with pytest.raises(type(fault)):
        exit_code(fail(fault))


@pytest.mark.parametrize(
    ("word", "expected"),
    [("EDSX", " (did you mean 'EDSR'?)"), ("edsr", " (did you mean 'EDSR'?)"), ("transformer", "")],
)
def test_nearest(word, expected):
    assert nearest(word, ["EDSR", "UNet"]) == expected
