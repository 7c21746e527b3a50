/* Shows the latent under the mouse in a heat map, computed from the opacity of its pixel. */

const LEAST_OPACITY = 40; // as in heat_map.py

function startHeatMaps(section) {
  const readout = section.querySelector(".readout");
  if (!readout) return;
  const atRest = readout.textContent;
  for (const figure of section.getElementsByClassName("heat-map")) {
    const image = figure.querySelector("img");
    let pixels = null;
    image.addEventListener("pointermove", (event) => {
      pixels ||= readPixels(image);
      const frame = image.getBoundingClientRect();
      const column = pixelIndex((event.clientX - frame.left) / frame.width, pixels.width);
      const row = pixelIndex((event.clientY - frame.top) / frame.height, pixels.height);
      const opacity = pixels.data[4 * (row * pixels.width + column) + 3];
      const { name, start, end, highest } = figure.dataset;
      const latent = opacity
        ? `about ${(((opacity - LEAST_OPACITY) / (255 - LEAST_OPACITY)) * highest).toFixed(2)}`
        : "pruned";
      const iteration = Number(start) + ((end - start) * column) / Math.max(1, pixels.width - 1);
      readout.textContent = `${name}, row ${row + 1}, iteration ${withCommas(Math.round(iteration), 0)}: ${latent}`;
    });
    image.addEventListener("pointerleave", () => (readout.textContent = atRest));
  }
}

function readPixels(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function pixelIndex(fraction, count) {
  return Math.min(count - 1, Math.max(0, Math.floor(fraction * count)));
}
