"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = [];

  const short = (v) => {
    if (v === null || v === undefined) return "–";
    const size = Math.abs(v);
    if (size >= 10000) return Intl.NumberFormat("en", { notation: "compact" }).format(v);
    return Number(v.toPrecision(4)).toString();
  };

  // A flat line gets a narrow scale of its own, not one from zero to twice its height.
  const range = (u, low, high) => {
    if (low === null || low !== high) return uPlot.rangeNum(low, high, 0.1, true);
    return low ? [low - Math.abs(low) / 20, low + Math.abs(low) / 20] : [0, 1];
  };

  function draw(place, chart) {
    place.textContent = "";
    const key = place.parentNode.querySelector(".key");
    const front = colour("--soft"), line = colour("--line");
    const series = [{}], bands = [], data = [chart.x], shown = [];
    chart.series.forEach((one, n) => {
      const stroke = colour("--s" + (n % 8));
      const points = { show: one.y.filter((v) => v !== null).length < 30, size: 5, fill: stroke };
      series.push({ label: one.label, stroke, width: 2, spanGaps: true, points });
      data.push(one.y);
      shown.push([one.label, stroke, data.length - 1]);
      if (one.low.length) {
        const none = { stroke: "transparent", spanGaps: true, points: { show: false } };
        series.push({ ...none, label: "" }, { ...none, label: "" });
        data.push(one.high, one.low);
        bands.push({ series: [data.length - 2, data.length - 1], fill: stroke + "33" });
      }
    });
    const say = (at) => {
      key.replaceChildren(...shown.map(([label, stroke, row]) => {
        const item = document.createElement("span"), mark = document.createElement("i");
        mark.style.background = stroke;
        let last = at;
        if (last === null) {
          last = data[row].length - 1;
          while (last > 0 && data[row][last] === null) last -= 1;
        }
        const where = at === null ? "last " : "step " + chart.x[last] + ": ";
        item.append(mark, label + " – " + where + short(data[row][last]));
        return item;
      }));
    };
    const axis = { stroke: front, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const plot = new uPlot({
      width: place.clientWidth, height: 220, bands, series, legend: { show: false },
      scales: { x: { time: false }, y: chart.log ? { distr: 3 } : { range: chart.zero ? [0, null] : range } },
      axes: [
        { ...axis, label: "step", labelSize: 18, size: 34 },
        { ...axis, size: 58, values: (u, ticks) => ticks.map((v) => (v === null ? "" : short(v))) },
      ],
      cursor: { y: false },
      hooks: { setCursor: [(u) => say(u.cursor.idx === undefined ? null : u.cursor.idx)] },
    }, data, place);
    say(null);
    return plot;
  }

  function drawAll() {
    document.querySelectorAll("[data-chart]").forEach((place, n) => {
      if (drawn[n]) drawn[n].destroy();
      drawn[n] = draw(place, charts[Number(place.dataset.chart)]);
    });
  }
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; drawAll(); }
  });

  document.querySelectorAll(".examples").forEach((table) => {
    const box = table.closest("section"), rows = [...table.tBodies[0].rows];
    const buttons = [...box.querySelectorAll("button")], search = box.querySelector("input");
    const count = box.querySelector(".count");
    let kind = "";
    const apply = () => {
      const words = search.value.toLowerCase();
      let left = 0;
      rows.forEach((row) => {
        const show = (!kind || row.dataset.kind === kind) && row.textContent.toLowerCase().includes(words);
        row.hidden = !show;
        left += show;
      });
      count.textContent = left + " of " + rows.length + " shown";
    };
    buttons.forEach((button) => button.addEventListener("click", () => {
      kind = button.dataset.kind;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      apply();
    }));
    search.addEventListener("input", apply);
    apply();
  });
})();
