"""Make image-restoration networks smaller and faster: search, cut, finetune, export."""

__version__ = "0.1.0"
