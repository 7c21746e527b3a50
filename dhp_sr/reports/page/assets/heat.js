/* The value under the mouse in a picture of latents, read back from its opacity. */

const FAINTEST = 40; // as in heat.py

function startHeat(section) {
  const readout = section.querySelector(".readout");
  if (!readout) return;
  const atRest = readout.textContent;
  for (const figure of section.getElementsByClassName("heat")) {
    const image = figure.querySelector("img");
    let pixels = null;
    image.addEventListener("pointermove", (event) => {
      pixels ||= read(image);
      const frame = image.getBoundingClientRect();
      const column = within((event.clientX - frame.left) / frame.width, pixels.width);
      const row = within((event.clientY - frame.top) / frame.height, pixels.height);
      const opacity = pixels.data[4 * (row * pixels.width + column) + 3];
      const { name, start, end, highest } = figure.dataset;
      const left = opacity ? `about ${(((opacity - FAINTEST) / (255 - FAINTEST)) * highest).toFixed(2)}` : "cut";
      const iteration = Number(start) + ((end - start) * column) / Math.max(1, pixels.width - 1);
      readout.textContent = `${name}, row ${row + 1}, iteration ${withCommas(Math.round(iteration), 0)}: ${left}`;
    });
    image.addEventListener("pointerleave", () => (readout.textContent = atRest));
  }
}

function read(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function within(share, count) {
  return Math.min(count - 1, Math.max(0, Math.floor(share * count)));
}
