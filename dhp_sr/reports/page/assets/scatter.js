/* Draws score against cost, a mark for each network. */

const KINDS = {
  pruned: "pruned networks",
  dense: "dense networks",
  baseline: "baselines",
  published: "published",
};

function mark(parent, kind, x, y) {
  const shapes = {
    dense: ["circle", { cx: x, cy: y, r: 6 }],
    pruned: ["path", { d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z` }],
    baseline: ["rect", { x: x - 5.5, y: y - 5.5, width: 11, height: 11 }],
    published: ["path", { d: `M${x} ${y - 6}L${x + 6} ${y + 5}L${x - 6} ${y + 5}Z` }],
  };
  return draw(parent, shapes[kind][0], { ...shapes[kind][1], class: kind });
}

/* Fills the controls of the section and draws the chart whenever a choice or the width changes. */
function startScatter(chart, section) {
  const figure = section.querySelector("figure");
  const note = section.querySelector("#cost-note");
  const choice = { set: null, score: null, cost: null, hiddenKinds: new Set() };
  const paint = (width) => drawScatter(chart, choice, figure, note, width);

  const fill = (name, options) => {
    const select = section.querySelector(`[data-choice="${name}"]`);
    for (const { value, label } of options) {
      element(select, "option", "", label).setAttribute("value", value);
    }
    choice[name] = options[0]?.value;
    select.addEventListener("change", () => {
      choice[name] = select.value;
      paint(figure.clientWidth);
    });
    // A choice of one is none.
    select.parentElement.hidden = options.length < 2;
  };
  const byKey = (entries) => entries.map(({ key, label }) => ({ value: key, label }));
  fill(
    "set",
    chart.sets.map((name) => ({ value: name, label: name })),
  );
  fill("score", byKey(chart.scores));
  fill("cost", byKey(chart.costs));
  section.querySelector(".controls").hidden = false;

  const legend = section.querySelector(".legend");
  for (const kind of Object.keys(KINDS)) {
    if (chart.points.some((point) => point.kind === kind)) {
      addLegendButton(legend, kind, choice.hiddenKinds, () => paint(figure.clientWidth));
    }
  }
  repaint(figure, paint);
}

/* A button with the mark of a kind of points, which shows or hides them. */
function addLegendButton(legend, kind, hiddenKinds, onChange) {
  const button = element(legend, "button");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  const icon = draw(button, "svg", { width: 18, height: 18, "aria-hidden": "true" });
  mark(icon, kind, 9, 9);
  element(button, "span", "", KINDS[kind]);
  button.addEventListener("click", () => {
    if (!hiddenKinds.delete(kind)) hiddenKinds.add(kind);
    button.setAttribute("aria-pressed", String(!hiddenKinds.has(kind)));
    onChange();
  });
}

function drawScatter(chart, choice, figure, note, width) {
  const cost = chart.costs.find((candidate) => candidate.key === choice.cost);
  const score = chart.scores.find((candidate) => candidate.key === choice.score);
  const scoreOf = (entry) => entry.sets[choice.set]?.[choice.score];
  const isUsable = (point) => point[cost.key] != null && scoreOf(point) != null;
  const points = chart.points.filter(
    (point) => isUsable(point) && !choice.hiddenKinds.has(point.kind),
  );
  const inputs = chart.inputs.map((input) => ({ label: input.label, value: scoreOf(input) }));
  figure.replaceChildren();
  writeNote(chart, inputs, score, cost, isUsable, note);
  if (!points.length) {
    element(figure, "p", "note", "No network has these figures.");
    return;
  }

  const size = frame(width, Math.max(280, Math.min(420, width * 0.5)), 56);
  const costs = points.map((point) => point[cost.key] / cost.unit);
  const x = costScale(costs, size.box, width < 500 ? 4 : 6);
  const range = paddedRange(points.map(scoreOf), 0.14);
  const y = linear(range.low, range.high, size.box.bottom, size.box.top, 5);
  const scoreTitle = `${score.label} on ${choice.set}`;
  const svg = axes(figure, size, x, y, {
    x: cost.label,
    y: `${score.label}, ${choice.set}`,
    description: `${scoreTitle} against ${cost.label}, ${points.length} networks. Arrow keys step through them.`,
  });

  // An input far below all networks would squeeze them together: it is in the note alone.
  for (const { label, value } of inputs) {
    if (value != null && value >= range.low && value <= range.high) {
      drawReference(svg, size.box, y.at(value), label);
    }
  }
  const position = (point) => [x.at(point[cost.key] / cost.unit), y.at(scoreOf(point))];
  drawLinks(svg, points, position);

  // Drawn from the least to the most important, which then lies on top.
  const order = { published: 0, baseline: 1, dense: 2, pruned: 3 };
  points.sort((first, second) => order[first.kind] - order[second.kind]);
  const stops = points.map((point) => {
    const [left, top] = position(point);
    const lines = describe(point, choice, chart, score);
    return { x: left, y: top, mark: mark(svg, point.kind, left, top), lines, point };
  });
  writeLabels(svg, size, stops);
  // Arrow keys step from left to right.
  stops.sort((first, second) => first.x - second.x);
  cursor(figure, svg, size, stops, false);
}

/* Costs that differ by more than a factor of three are hard to tell apart on a linear axis. */
function costScale(costs, box, count) {
  const [low, high] = [Math.min(...costs), Math.max(...costs)];
  if (high / low > 3) return logarithmic(low / 1.35, high * 1.6, box.left, box.right, 5);
  const span = high - low || high;
  // More space on the right, where the names stand.
  return linear(Math.max(0, low - span * 0.25), high + span * 0.35, box.left, box.right, count);
}

function paddedRange(values, fraction) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || 0.02 * Math.abs(low) || 1) * fraction;
  return { low: low - pad, high: high + pad };
}

/* A dashed line at the score of an input, with its name. */
function drawReference(svg, box, y, name) {
  draw(svg, "line", { class: "reference", x1: box.left, x2: box.right, y1: y, y2: y });
  draw(svg, "text", { x: box.right, y: y - 5, "text-anchor": "end" }, name);
}

/* A line from the dense network of a run to each of its pruned ones. */
function drawLinks(svg, points, position) {
  for (const dense of points.filter((point) => point.kind === "dense")) {
    for (const pruned of points) {
      if (pruned.kind !== "pruned" || pruned.run !== dense.run) continue;
      const [[x1, y1], [x2, y2]] = [position(dense), position(pruned)];
      draw(svg, "line", { class: "link", x1, y1, x2, y2 });
    }
  }
}

function frame(width, height, left) {
  return { width, height, box: { left, right: width - 12, top: 34, bottom: height - 46 } };
}

function describe(point, choice, chart, score) {
  const lines = [
    point.label,
    `${score.label}: ${point.sets[choice.set][score.key].toFixed(score.digits)}`,
  ];
  for (const cost of chart.costs) {
    if (point[cost.key] != null)
      lines.push(`${cost.label}: ${withCommas(point[cost.key] / cost.unit, cost.digits)}`);
  }
  if (point.iterations != null) lines.push(`${withCommas(point.iterations, 0)} iterations`);
  if (point.kind !== "published") lines.push(point.detail);
  return lines;
}

/* Writes names beside the points where there is space, those of the runs first; the cursor shows all of them. */
function writeLabels(svg, size, stops) {
  const taken = stops.map((stop) => ({
    left: stop.x - 7,
    right: stop.x + 7,
    top: stop.y - 7,
    bottom: stop.y + 7,
  }));
  const isFree = (box, ownIndex) =>
    taken.every(
      (other, index) =>
        index === ownIndex ||
        box.right < other.left ||
        box.left > other.right ||
        box.bottom < other.top ||
        box.top > other.bottom,
    );
  // From the most important mark on, because the first names get the space.
  for (const [index, stop] of [...stops.entries()].reverse()) {
    const quiet = stop.point.kind === "published";
    if (quiet && !stop.point.short) continue;
    const text = draw(
      svg,
      "text",
      { class: `label ${quiet ? "quiet" : ""}`, y: stop.y + 4 },
      stop.point.short || stop.point.label,
    );
    const width = text.getComputedTextLength();
    // To the right of the mark, or else to its left, or not at all.
    const boxes = [stop.x + 13, stop.x - 13 - width]
      .filter((left) => left >= size.box.left && left + width <= size.box.right)
      .map((left) => ({ left, right: left + width, top: stop.y - 7, bottom: stop.y + 7 }));
    const box = boxes.find((candidate) => isFree(candidate, index));
    if (!box) text.remove();
    else {
      text.setAttribute("x", box.left);
      taken.push(box);
    }
  }
}

/* Says below the chart what it cannot show. */
function writeNote(chart, inputs, score, cost, isUsable, note) {
  const sentences = [];
  const known = inputs.filter(({ value }) => value != null);
  if (known.length) {
    const scores = known.map(({ label, value }) => `${label} ${value.toFixed(score.digits)}`);
    sentences.push(`Without a network: ${scores.join(", ")}.`);
  }
  const published = chart.points.filter((point) => point.kind === "published");
  if (published.length && !published.some(isUsable)) {
    const reason = cost.key === "latency_ms" ? ": they were measured on other hardware" : "";
    sentences.push(`No published figures for this choice${reason}.`);
  }
  if (!chart.points.some((point) => point.kind === "baseline")) {
    sentences.push(
      "No baselines (uniform, random, magnitude) of the same network are in the folder of this run.",
    );
  }
  note.textContent = sentences.join(" ");
}
