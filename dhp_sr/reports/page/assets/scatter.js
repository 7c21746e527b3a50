/* Draws score against cost, a mark for each network. */

const KINDS = { pruned: "cut networks", dense: "dense networks", baseline: "baselines", published: "published" };

function mark(parent, kind, x, y) {
  const shapes = {
    dense: ["circle", { cx: x, cy: y, r: 6 }],
    pruned: ["path", { d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z` }],
    baseline: ["rect", { x: x - 5.5, y: y - 5.5, width: 11, height: 11 }],
    published: ["path", { d: `M${x} ${y - 6}L${x + 6} ${y + 5}L${x - 6} ${y + 5}Z` }],
  };
  return draw(parent, shapes[kind][0], { ...shapes[kind][1], class: kind });
}

function startScatter(chart, section) {
  const figure = section.querySelector("figure");
  const choice = { hidden: new Set() };
  const fill = (name, options) => {
    const select = section.querySelector(`[data-choice="${name}"]`);
    options.forEach(([value, label]) => element(select, "option", "", label).setAttribute("value", value));
    choice[name] = options[0]?.[0];
    select.addEventListener("change", () => {
      choice[name] = select.value;
      paint(figure.clientWidth);
    });
    select.parentElement.hidden = options.length < 2;
  };
  fill("set", chart.sets.map((name) => [name, name]));
  fill("score", chart.scores.map((score) => [score.key, score.label]));
  fill("cost", chart.costs.map((cost) => [cost.key, cost.label]));
  section.querySelector(".controls").hidden = false;

  const legend = section.querySelector(".legend");
  for (const kind of Object.keys(KINDS).filter((kind) => chart.points.some((point) => point.kind === kind))) {
    const button = element(legend, "button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    const icon = draw(button, "svg", { width: 18, height: 18, "aria-hidden": "true" });
    mark(icon, kind, 9, 9);
    element(button, "span", "", KINDS[kind]);
    button.addEventListener("click", () => {
      choice.hidden[choice.hidden.has(kind) ? "delete" : "add"](kind);
      button.setAttribute("aria-pressed", String(!choice.hidden.has(kind)));
      paint(figure.clientWidth);
    });
  }
  const paint = (width) => drawScatter(chart, choice, figure, section.querySelector("#cost-note"), width);
  repaint(figure, paint);
}

function drawScatter(chart, choice, figure, note, width) {
  const cost = chart.costs.find((kind) => kind.key === choice.cost);
  const score = chart.scores.find((kind) => kind.key === choice.score);
  const value = (point) => point.sets[choice.set]?.[choice.score];
  const usable = (point) => point[cost.key] != null && value(point) != null;
  const points = chart.points.filter((point) => usable(point) && !choice.hidden.has(point.kind));
  const inputs = chart.inputs.map((input) => [input.label, input.sets[choice.set]?.[choice.score]]);
  figure.replaceChildren();
  writeNote(chart, inputs, score, cost, usable, note);
  if (!points.length) return void element(figure, "p", "note", "No network has these figures.");

  const size = frame(width, Math.max(280, Math.min(420, width * 0.5)), 56);
  const xs = points.map((point) => point[cost.key] / cost.unit);
  const ys = points.map(value);
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const x = high / low > 3
    ? logarithmic(low / 1.35, high * 1.6, size.box.left, size.box.right, 5)
    : linear(Math.max(0, low - (high - low || high) * 0.25), high + (high - low || high) * 0.35, size.box.left, size.box.right, width < 500 ? 4 : 6);
  const pad = (Math.max(...ys) - Math.min(...ys) || 0.02 * Math.abs(ys[0]) || 1) * 0.14;
  const [bottom, top] = [Math.min(...ys) - pad, Math.max(...ys) + pad];
  const y = linear(bottom, top, size.box.bottom, size.box.top, 5);
  const description = `${score.label} on ${choice.set} against ${cost.label}, ${points.length} networks. Arrow keys step through them.`;
  const svg = axes(figure, size, x, y, { x: cost.label, y: `${score.label}, ${choice.set}`, description });

  for (const [label, reached] of inputs) {
    if (reached == null || reached < bottom || reached > top) continue;
    draw(svg, "line", { class: "reference", x1: size.box.left, x2: size.box.right, y1: y.at(reached), y2: y.at(reached) });
    draw(svg, "text", { x: size.box.right, y: y.at(reached) - 5, "text-anchor": "end" }, label);
  }
  const position = (point) => [x.at(point[cost.key] / cost.unit), y.at(value(point))];
  for (const dense of points.filter((point) => point.kind === "dense")) {
    for (const pruned of points.filter((point) => point.run === dense.run && point.kind === "pruned")) {
      const [[x1, y1], [x2, y2]] = [position(dense), position(pruned)];
      draw(svg, "line", { class: "link", x1, y1, x2, y2 });
    }
  }
  const order = { published: 0, baseline: 1, dense: 2, pruned: 3 };
  points.sort((first, second) => order[first.kind] - order[second.kind]);
  const stops = points.map((point) => {
    const [left, down] = position(point);
    return { x: left, y: down, mark: mark(svg, point.kind, left, down), lines: describe(point, choice, chart, score), point };
  });
  label(svg, size, stops);
  cursor(figure, svg, size, stops.sort((first, second) => first.x - second.x), false);
}

function frame(width, height, left) {
  return { width, height, box: { left, right: width - 12, top: 34, bottom: height - 46 } };
}

function describe(point, choice, chart, score) {
  const lines = [point.label, `${score.label}: ${point.sets[choice.set][score.key].toFixed(score.digits)}`];
  for (const cost of chart.costs) {
    if (point[cost.key] != null) lines.push(`${cost.label}: ${withCommas(point[cost.key] / cost.unit, cost.digits)}`);
  }
  if (point.iterations != null) lines.push(`${withCommas(point.iterations, 0)} iterations`);
  if (point.kind !== "published") lines.push(point.detail);
  return lines;
}

/* Writes names beside the points where there is space, those of the runs first; the cursor shows all of them. */
function label(svg, size, stops) {
  const taken = stops.map((stop) => ({ left: stop.x - 7, right: stop.x + 7, top: stop.y - 7, bottom: stop.y + 7 }));
  const isFree = (box, ownIndex) => taken.every((other, index) => index === ownIndex || box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom);
  for (const [index, stop] of [...stops.entries()].reverse()) {
    const quiet = stop.point.kind === "published";
    if (quiet && !stop.point.short) continue;
    const text = draw(svg, "text", { class: `label ${quiet ? "quiet" : ""}`, y: stop.y + 4 }, stop.point.short || stop.point.label);
    const width = text.getComputedTextLength();
    const sides = [stop.x + 13, stop.x - 13 - width].filter((left) => left >= size.box.left && left + width <= size.box.right);
    const boxes = sides.map((left) => ({ left, right: left + width, top: stop.y - 7, bottom: stop.y + 7 }));
    const box = boxes.find((candidate) => isFree(candidate, index));
    if (!box) text.remove();
    else {
      text.setAttribute("x", box.left);
      taken.push(box);
    }
  }
}

function writeNote(chart, inputs, score, cost, usable, note) {
  const known = inputs.filter(([, value]) => value != null).map(([name, value]) => `${name} ${value.toFixed(score.digits)}`);
  const sentences = known.length ? [`Without a network: ${known.join(", ")}.`] : [];
  const published = chart.points.filter((point) => point.kind === "published");
  if (published.length && !published.some(usable)) sentences.push(`No published figures for this choice${cost.key === "latency_ms" ? ": they were measured on other hardware" : ""}.`);
  if (!chart.points.some((point) => point.kind === "baseline")) sentences.push("No baselines (uniform, random, magnitude) of the same network are in the folder of this run.");
  note.textContent = sentences.join(" ");
}
