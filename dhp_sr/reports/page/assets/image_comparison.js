/* Shows two versions of an image on top of each other, divided by a line; both are zoomed and moved together. */

const MAX_ZOOM = 8;
const GRIP = 26; // pixels on each side of the divider in which a drag moves it

function startImageComparison(section) {
  const [viewport] = section.getElementsByClassName("viewport");
  const strips = [...section.getElementsByClassName("strip")];
  const buttons = [...section.querySelectorAll(".image-buttons button")];
  const divider = section.querySelector(".divider-position");
  const selects = [section.querySelector(".version.left"), section.querySelector(".version.right")];
  const images = [viewport.querySelector(".left img"), viewport.querySelector(".right img")];
  const tags = [viewport.querySelector(".tag.left"), viewport.querySelector(".tag.right")];
  const view = { zoom: 1, x: 0, y: 0, versions: [] };

  const paint = () => {
    const [width, height] = [viewport.clientWidth, viewport.clientHeight];
    view.x = Math.min(0, Math.max(width * (1 - view.zoom), view.x));
    view.y = Math.min(0, Math.max(height * (1 - view.zoom), view.y));
    for (const image of images)
      image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    viewport.querySelector(".layer.left").style.clipPath = `inset(0 ${100 - divider.value}% 0 0)`;
    viewport.querySelector(".divider").style.left = `${divider.value}%`;
    viewport.classList.toggle("zoomed", view.zoom > 1);
    section.querySelector("output").textContent = `${view.zoom}×`;
  };
  const choose = () => {
    selects.forEach((select, side) => {
      const version = view.versions[select.value];
      images[side].src = version.src;
      images[side].alt = version.alt;
      tags[side].textContent = version.dataset.label;
    });
    divider.setAttribute(
      "aria-valuetext",
      `${divider.value} percent ${tags[0].textContent}, the rest ${tags[1].textContent}`,
    );
    paint();
  };
  const open = (number) => {
    const strip = strips[number];
    strips.forEach((other) => (other.hidden = other !== strip));
    buttons.forEach((button, index) =>
      button.setAttribute("aria-pressed", String(index === number)),
    );
    view.versions = [...strip.querySelectorAll("img")];
    viewport.style.aspectRatio = `${strip.dataset.width} / ${strip.dataset.height}`;
    selects.forEach((select, side) => {
      const before = select.selectedOptions[0]?.dataset.label;
      select.replaceChildren();
      view.versions.forEach((version, index) => {
        const option = element(select, "option", "", caption(version));
        option.value = index;
        option.dataset.label = version.dataset.label;
      });
      const same = view.versions.findIndex((version) => version.dataset.label === before);
      select.value = before && same >= 0 ? same : side ? strip.dataset.right : strip.dataset.left;
    });
    choose();
  };
  const caption = (version) =>
    [version.dataset.label, version.dataset.score].filter(Boolean).join(", ");
  const zoomTo = (zoom, x = viewport.clientWidth / 2, y = viewport.clientHeight / 2) => {
    const next = Math.min(MAX_ZOOM, Math.max(1, zoom));
    view.x = x - ((x - view.x) * next) / view.zoom;
    view.y = y - ((y - view.y) * next) / view.zoom;
    view.zoom = next;
    paint();
  };
  const divide = (percent) => {
    divider.value = Math.min(100, Math.max(0, percent));
    choose();
  };

  selects.forEach((select) => select.addEventListener("change", choose));
  buttons.forEach((button, index) => button.addEventListener("click", () => open(index)));
  divider.addEventListener("input", () => divide(Number(divider.value)));
  section.querySelector(".zoom").addEventListener("click", (event) => {
    const kind = event.target.closest("button")?.dataset.zoom;
    if (kind) zoomTo({ in: view.zoom * 2, out: view.zoom / 2, fit: 1 }[kind]);
  });
  viewport.addEventListener("keydown", (event) => {
    const zoom = { "+": 2, "=": 2, "-": 0.5 }[event.key];
    const move = {
      ArrowLeft: [40, 0],
      ArrowRight: [-40, 0],
      ArrowUp: [0, 40],
      ArrowDown: [0, -40],
    }[event.key];
    if (event.ctrlKey || event.metaKey || !(zoom || (move && view.zoom > 1))) return;
    event.preventDefault();
    if (zoom) zoomTo(view.zoom * zoom);
    else [view.x, view.y] = [view.x + move[0], view.y + move[1]];
    paint();
  });
  dragging(viewport, divider, view, divide, paint);
  new ResizeObserver(paint).observe(viewport);
  section.querySelector(".image-buttons").hidden = strips.length < 2;
  section.querySelector(".comparison").hidden = false;
  section.classList.add("scripted");
  open(0);
}

/* Near the line, or while nothing is enlarged, a drag moves the line; elsewhere it moves the image. */
function dragging(viewport, divider, view, divide, paint) {
  let last = null;
  const percent = (event) => {
    const frame = viewport.getBoundingClientRect();
    return ((event.clientX - frame.left) / frame.width) * 100;
  };
  viewport.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const distance = (Math.abs(percent(event) - divider.value) / 100) * viewport.clientWidth;
    last = { x: event.clientX, y: event.clientY, divides: view.zoom === 1 || distance < GRIP };
    viewport.setPointerCapture(event.pointerId);
    if (last.divides) divide(percent(event));
  });
  viewport.addEventListener("pointermove", (event) => {
    if (!last) return;
    if (last.divides) return divide(percent(event));
    view.x += event.clientX - last.x;
    view.y += event.clientY - last.y;
    [last.x, last.y] = [event.clientX, event.clientY];
    paint();
  });
  for (const kind of ["pointerup", "pointercancel"])
    viewport.addEventListener(kind, () => (last = null));
}
