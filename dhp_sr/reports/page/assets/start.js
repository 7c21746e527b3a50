const data = JSON.parse(document.getElementById("data").textContent);
if (data.chart) startScatter(data.chart, document.getElementById("cost"));
if (data.curves?.charts.length) startCurves(data.curves, document.getElementById("curves"));
if (document.getElementById("pictures")) startSlider(document.getElementById("pictures"));
for (const section of document.getElementsByClassName("latents")) startHeat(section);
