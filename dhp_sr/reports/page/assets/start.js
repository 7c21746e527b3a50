const data = JSON.parse(document.getElementById("data").textContent);
if (data.scatter) startScatter(data.scatter, document.getElementById("cost"));
if (data.curves?.charts.length) startCurves(data.curves, document.getElementById("curves"));
if (document.getElementById("images")) startImageComparison(document.getElementById("images"));
for (const section of document.getElementsByClassName("latents")) startHeatMaps(section);
