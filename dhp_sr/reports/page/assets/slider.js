/* Two versions of a picture on top of each other, divided by a line; both are enlarged and moved together. */

const MOST_ZOOM = 8;
const GRIP = 26;

function startSlider(section) {
  const [stage] = section.getElementsByClassName("stage");
  const strips = [...section.getElementsByClassName("strip")];
  const buttons = [...section.querySelectorAll(".scenes button")];
  const split = section.querySelector(".split");
  const picks = [section.querySelector(".pick.left"), section.querySelector(".pick.right")];
  const images = [stage.querySelector(".left img"), stage.querySelector(".right img")];
  const tags = [stage.querySelector(".tag.left"), stage.querySelector(".tag.right")];
  const view = { zoom: 1, x: 0, y: 0, versions: [] };

  const paint = () => {
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    view.x = Math.min(0, Math.max(width * (1 - view.zoom), view.x));
    view.y = Math.min(0, Math.max(height * (1 - view.zoom), view.y));
    for (const image of images) image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    stage.querySelector(".layer.left").style.clipPath = `inset(0 ${100 - split.value}% 0 0)`;
    stage.querySelector(".divider").style.left = `${split.value}%`;
    stage.classList.toggle("zoomed", view.zoom > 1);
    section.querySelector("output").textContent = `${view.zoom}×`;
  };
  const choose = () => {
    picks.forEach((pick, side) => {
      const version = view.versions[pick.value];
      images[side].src = version.src;
      images[side].alt = version.alt;
      tags[side].textContent = version.dataset.label;
    });
    split.setAttribute("aria-valuetext", `${split.value} percent ${tags[0].textContent}, the rest ${tags[1].textContent}`);
    paint();
  };
  const open = (number) => {
    const strip = strips[number];
    strips.forEach((one) => (one.hidden = one !== strip));
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === number)));
    view.versions = [...strip.querySelectorAll("img")];
    stage.style.aspectRatio = `${strip.dataset.width} / ${strip.dataset.height}`;
    picks.forEach((pick, side) => {
      const before = pick.selectedOptions[0]?.dataset.label;
      pick.replaceChildren();
      view.versions.forEach((version, index) => {
        const option = element(pick, "option", "", caption(version));
        option.value = index;
        option.dataset.label = version.dataset.label;
      });
      const same = view.versions.findIndex((version) => version.dataset.label === before);
      pick.value = before && same >= 0 ? same : side ? strip.dataset.right : strip.dataset.left;
    });
    choose();
  };
  const caption = (version) => [version.dataset.label, version.dataset.score].filter(Boolean).join(", ");
  const zoomTo = (zoom, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const next = Math.min(MOST_ZOOM, Math.max(1, zoom));
    view.x = x - ((x - view.x) * next) / view.zoom;
    view.y = y - ((y - view.y) * next) / view.zoom;
    view.zoom = next;
    paint();
  };
  const divide = (percent) => {
    split.value = Math.min(100, Math.max(0, percent));
    choose();
  };

  picks.forEach((pick) => pick.addEventListener("change", choose));
  buttons.forEach((button, index) => button.addEventListener("click", () => open(index)));
  split.addEventListener("input", () => divide(Number(split.value)));
  section.querySelector(".zoom").addEventListener("click", (event) => {
    const kind = event.target.closest("button")?.dataset.zoom;
    if (kind) zoomTo({ in: view.zoom * 2, out: view.zoom / 2, fit: 1 }[kind]);
  });
  stage.addEventListener("keydown", (event) => {
    const zoom = { "+": 2, "=": 2, "-": 0.5 }[event.key];
    const move = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (event.ctrlKey || event.metaKey || !(zoom || (move && view.zoom > 1))) return;
    event.preventDefault();
    if (zoom) zoomTo(view.zoom * zoom);
    else [view.x, view.y] = [view.x + move[0], view.y + move[1]];
    paint();
  });
  dragging(stage, split, view, divide, paint);
  new ResizeObserver(paint).observe(stage);
  section.querySelector(".scenes").hidden = strips.length < 2;
  section.querySelector(".comparison").hidden = false;
  section.classList.add("scripted");
  open(0);
}

/* Near the line, or while nothing is enlarged, a drag moves the line; elsewhere it moves the picture. */
function dragging(stage, split, view, divide, paint) {
  let last = null;
  const percent = (event) => {
    const frame = stage.getBoundingClientRect();
    return ((event.clientX - frame.left) / frame.width) * 100;
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const distance = (Math.abs(percent(event) - split.value) / 100) * stage.clientWidth;
    last = { x: event.clientX, y: event.clientY, divides: view.zoom === 1 || distance < GRIP };
    stage.setPointerCapture(event.pointerId);
    if (last.divides) divide(percent(event));
  });
  stage.addEventListener("pointermove", (event) => {
    if (!last) return;
    if (last.divides) return divide(percent(event));
    view.x += event.clientX - last.x;
    view.y += event.clientY - last.y;
    [last.x, last.y] = [event.clientX, event.clientY];
    paint();
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, () => (last = null));
}
