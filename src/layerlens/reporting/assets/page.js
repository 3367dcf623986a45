"use strict";

(() => {
  const figures = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 560px)");

  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  const color = (name) => {
    if (!name.startsWith("depth:")) return token(name);
    const share = Number(name.slice(6));
    const [low, high] = [channels(token("depth-low")), channels(token("depth-high"))];
    return `rgb(${low.map((value, at) => Math.round(value + share * (high[at] - value))).join(",")})`;
  };

  // Only keys that hold a colour are looked up, so that a name that begins with @ stays a name.
  const themed = (value, key = "") => {
    if (Array.isArray(value)) return value.map((entry) => themed(entry, key));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, themed(entry, name)]));
    return /color$/.test(key) && typeof value === "string" && value.startsWith("@") ? color(value.slice(1)) : value;
  };

  const axis = (own) => ({
    gridcolor: token("line"), linecolor: token("faint"), tickcolor: token("faint"), zeroline: false, showline: true, ticks: "outside",
    ticklen: 4, fixedrange: true, automargin: true, ...own,
    title: { standoff: 8, ...(own.title || {}), font: { size: narrow.matches ? 12 : 13, color: token("muted") } },
  });

  const layout = (own) => ({
    ...own,
    autosize: true,
    margin: { l: 8, r: 12, t: 8, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11 : 13, color: token("ink") },
    hoverlabel: { bgcolor: token("surface"), bordercolor: token("faint"), font: { color: token("ink"), size: 13 }, namelength: -1 },
    hovermode: "closest",
    dragmode: false,
    xaxis: axis(own.xaxis || {}),
    yaxis: axis(own.yaxis || {}),
    legend: { ...(own.legend || {}), itemclick: false, itemdoubleclick: false, font: { size: narrow.matches ? 11 : 13 } },
  });

  // A picker's chart holds the traces of all matrices; those that are not picked stay out.
  const pickers = [...document.querySelectorAll(".pick")];
  const shown = (id, traces) => {
    const picker = pickers.find((entry) => entry.dataset.chart === id);
    return picker ? traces.filter((trace) => trace.meta === picker.querySelector(".pick-layer").value) : traces;
  };

  const drawOne = (id) => {
    const { data, layout: own } = figures[id];
    Plotly.react(id, themed(shown(id, data)), themed(layout(own)), { displayModeBar: false, responsive: true });
  };

  const draw = () => Object.keys(figures).forEach(drawOne);

  for (const picker of pickers) {
    const [roles, layers] = [picker.querySelector(".pick-role"), picker.querySelector(".pick-layer")];
    const keepToRole = () => {
      const block = layers.selectedOptions[0].dataset.block;
      for (const option of layers.options) option.hidden = option.disabled = option.dataset.role !== roles.value;
      if (!layers.selectedOptions[0].disabled) return;
      const fitting = [...layers.options].filter((option) => !option.disabled);
      (fitting.find((option) => option.dataset.block === block) || fitting[0]).selected = true;
    };
    keepToRole();
    roles.addEventListener("change", () => { keepToRole(); drawOne(picker.dataset.chart); });
    layers.addEventListener("change", () => drawOne(picker.dataset.chart));
  }

  if (Object.keys(figures).length) {
    draw();
    dark.addEventListener("change", draw);
    narrow.addEventListener("change", draw);
  }

  const key = (row, at) => {
    const cell = row.cells[at];
    const shown = cell.dataset.key === undefined ? cell.textContent : cell.dataset.key;
    const number = Number(shown);
    return shown.trim() !== "" && Number.isFinite(number) ? number : shown;
  };

  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const head = button.parentElement;
      const direction = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => sign * order(key(a, head.cellIndex), key(b, head.cellIndex))));
    });
  }
})();
