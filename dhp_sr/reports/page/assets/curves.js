/* Draws the curves of training and validation over the iterations. */

function startCurves(curves, section) {
  const charts = section.querySelector(".charts");
  for (const chart of curves.charts) {
    const holder = element(charts, "div");
    element(holder, "h3", "", chart.title);
    const figure = element(holder, "figure", "chart");
    if (chart.lines.length > 1) {
      const keys = element(holder, "p", "keys");
      chart.lines.forEach((line) => {
        const key = element(keys, "span");
        const icon = draw(key, "svg", { width: 22, height: 8, "aria-hidden": "true" });
        draw(icon, "line", { class: `line s${line.style % 6}`, x1: 0, x2: 22, y1: 4, y2: 4 });
        element(key, "span", "", line.label);
      });
    }
    repaint(figure, (width) => drawCurves(chart, curves.phases, figure, width));
  }
}

function drawCurves(chart, phases, figure, width) {
  figure.replaceChildren();
  const all = chart.lines.flatMap((line) => line.points);
  const size = frame(width, Math.max(210, Math.min(270, width * 0.52)), 56);
  const end = Math.max(...all.map(([iteration]) => iteration), ...phases.map((phase) => phase.end));
  const x = linear(0, end || 1, size.box.left, size.box.right, width < 500 ? 3 : 5);
  const y = verticalScale(
    chart,
    all.map(([, value]) => value),
    size,
  );
  size.bands = (svg) => shadePhases(svg, phases, x, size);
  const svg = axes(figure, size, x, y, {
    x: "iterations",
    y: "",
    description: `${chart.title}. Arrow keys step along the iterations.`,
  });
  chart.lines.forEach((line) => {
    const path = line.points
      .map(([iteration, value]) => `${x.at(iteration).toFixed(1)} ${y.at(value).toFixed(1)}`)
      .join("L");
    draw(svg, "path", { class: `line s${line.style % 6}`, d: `M${path}` });
    if (line.points.length < 40) {
      for (const [iteration, value] of line.points)
        draw(svg, "circle", {
          class: `s${line.style % 6}`,
          cx: x.at(iteration),
          cy: y.at(value),
          r: 2,
          fill: "none",
        });
    }
  });
  cursor(figure, svg, size, cursorStops(chart, x, y), true);
}

function verticalScale(chart, values, size) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const { bottom, top } = size.box;
  if (chart.fraction)
    return { ...linear(0, 1, bottom, top, 4), write: (value) => `${Math.round(value * 100)} %` };
  if (chart.log && high / low > 3) return logarithmic(low / 1.08, high * 1.08, bottom, top, 4);
  const pad = (high - low || Math.abs(high) * 0.02 || 1) * 0.1;
  return linear(low - pad, high + pad, bottom, top, 4);
}

function shadePhases(svg, phases, x, size) {
  phases.forEach((phase, index) => {
    const [from, to] = [x.at(phase.start), x.at(phase.end)];
    draw(svg, "rect", {
      class: `band ${index % 2 ? "odd" : ""}`,
      x: from,
      y: size.box.top,
      width: to - from,
      height: size.box.bottom - size.box.top,
    });
    if (to - from > 50)
      draw(
        svg,
        "text",
        { x: (from + to) / 2, y: size.box.top - 8, "text-anchor": "middle" },
        phase.name,
      );
  });
}

function cursorStops(chart, x, y) {
  const stops = new Map();
  for (const line of chart.lines) {
    for (const [iteration, value] of line.points) {
      const text = chart.fraction ? `${(value * 100).toFixed(1)} %` : Number(value.toPrecision(5));
      const stop = stops.get(iteration) || {
        x: x.at(iteration),
        y: y.at(value),
        lines: [`iteration ${withCommas(iteration, 0)}`],
      };
      stop.lines.push(`${line.label}: ${text}`);
      stops.set(iteration, stop);
    }
  }
  return [...stops.keys()].sort((first, second) => first - second).map((key) => stops.get(key));
}
