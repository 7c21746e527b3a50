"use strict";
/* Scales, axes and the cursor that mouse and keyboard share. Text is set as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function element(parent, name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

/* A scale maps values to pixels; ticks are round numbers inside it. */
function linear(low, high, from, to, count) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10]
    .map((factor) => factor * power)
    .find((value) => value >= 0.75 * rough);
  // Counted in steps rather than summed up, so that rounding errors do not add up; `|| 0` turns -0 into 0.
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * span; index++)
    ticks.push(index * step || 0);
  const digits = Math.max(
    0,
    Math.min(6, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)),
  );
  const at = (value) => from + ((value - low) / span) * (to - from);
  return { at, ticks, write: (value) => withCommas(value || 0, digits) };
}

function logarithmic(low, high, from, to, count) {
  const [bottom, top] = [Math.log10(low), Math.log10(high)];
  const wide = top - bottom > 3;
  const ticks = [];
  for (let power = Math.floor(bottom) - 1; power <= top; power++) {
    for (const factor of wide ? [1] : [1, 2, 3, 5]) ticks.push(factor * 10 ** power);
  }
  const inside = ticks.filter((value) => value >= low * 0.9999 && value <= high * 1.0001);
  if (inside.length < 2) return linear(low, high, from, to, count);
  const at = (value) => from + ((Math.log10(value) - bottom) / (top - bottom)) * (to - from);
  return { at, ticks: inside, write: (value) => String(Number(value.toPrecision(3))) };
}

function withCommas(value, digits) {
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/* An empty drawing with axes; `box` has left, right, top and bottom in pixels. */
function axes(figure, size, x, y, titles) {
  const { width, height, box } = size;
  const svg = draw(figure, "svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    tabindex: 0,
    role: "img",
  });
  svg.setAttribute("aria-label", titles.description);
  size.bands?.(svg);
  for (const value of y.ticks) {
    draw(svg, "line", {
      class: "grid",
      x1: box.left,
      x2: box.right,
      y1: y.at(value),
      y2: y.at(value),
    });
    draw(
      svg,
      "text",
      { x: box.left - 8, y: y.at(value) + 4, "text-anchor": "end" },
      y.write(value),
    );
  }
  for (const value of x.ticks) {
    draw(svg, "line", {
      class: "axis",
      x1: x.at(value),
      x2: x.at(value),
      y1: box.bottom,
      y2: box.bottom + 4,
    });
    draw(
      svg,
      "text",
      { x: x.at(value), y: box.bottom + 18, "text-anchor": "middle" },
      x.write(value),
    );
  }
  draw(svg, "line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  draw(svg, "text", { x: box.right, y: box.bottom + 36, "text-anchor": "end" }, titles.x);
  if (titles.y)
    draw(svg, "text", { x: box.left - 8, y: box.top - 12, "text-anchor": "start" }, titles.y);
  return svg;
}

/* Shows stop number `index` of `stops` ({x, y, lines, mark}) as a small note; arrows step, the mouse finds the nearest. */
function cursor(figure, svg, size, stops, byColumn) {
  if (!stops.length) return;
  let current = -1;
  const tip = element(figure, "div", "tip");
  tip.setAttribute("role", "status");
  tip.hidden = true;
  const line = byColumn
    ? draw(svg, "line", {
        class: "cursor",
        y1: size.box.top,
        y2: size.box.bottom,
        visibility: "hidden",
      })
    : null;
  const leave = () => {
    if (current >= 0) stops[current].mark?.classList.remove("active");
    current = -1;
    tip.hidden = true;
    line?.setAttribute("visibility", "hidden");
  };
  const show = (index) => {
    leave();
    current = index;
    const stop = stops[index];
    stop.mark?.classList.add("active");
    tip.replaceChildren();
    stop.lines.forEach((text, index) => element(tip, index ? "div" : "b", "", text));
    tip.hidden = false;
    const factor = svg.getBoundingClientRect().width / size.width;
    const x = stop.x * factor;
    const left = x + 14 + tip.offsetWidth > figure.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, stop.y * factor - tip.offsetHeight - 8)}px`;
    if (line) ["x1", "x2"].forEach((key) => line.setAttribute(key, stop.x));
    line?.setAttribute("visibility", "visible");
  };
  const nearest = (event) => {
    const frame = svg.getBoundingClientRect();
    const factor = size.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * factor, (event.clientY - frame.top) * factor];
    const distance = (stop) => Math.abs(stop.x - x) + (byColumn ? 0 : Math.abs(stop.y - y));
    const best = stops.reduce(
      (nearestIndex, stop, index) =>
        distance(stop) < distance(stops[nearestIndex]) ? index : nearestIndex,
      0,
    );
    // A curve has a value at every column; a mark must be near.
    if (byColumn || distance(stops[best]) < 60) show(best);
    else leave();
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    // Before the first step `current` is -1: forward begins at the first stop, backward at the last.
    const start = current < 0 && step < 0 ? 0 : current;
    show((start + step + stops.length) % stops.length);
  });
}

/* Calls `paint(width)` now and whenever the width of `figure` changes. */
function repaint(figure, paint) {
  let width = 0;
  const look = () => {
    if (figure.clientWidth === width || !figure.clientWidth) return;
    width = figure.clientWidth;
    paint(width);
  };
  look();
  new ResizeObserver(() => requestAnimationFrame(look)).observe(figure);
}
