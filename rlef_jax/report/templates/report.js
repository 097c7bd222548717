// Draws each chart when it comes near the screen, in the colours of the page, and again when these change.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const probe = document.body.appendChild(document.createElement("span"));
  const color = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const painted = (figure) => JSON.parse(JSON.stringify(figure), (key, value) =>
    /color$/.test(key) && typeof value === "string" && value.startsWith("--") ? color(value) : value);
  const clear = "rgba(0,0,0,0)";
  const template = () => {
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line"),
      dividercolor: color("--line"), automargin: true };
    const panel = { bgcolor: color("--panel"), bordercolor: color("--line"), font: { color: color("--text") } };
    return { layout: {
      paper_bgcolor: clear, plot_bgcolor: clear, margin: { l: 8, r: 8, t: 8, b: 8 },
      font: { color: color("--text"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      xaxis: { ...axis, title: { standoff: 6 } }, yaxis: { ...axis, title: { standoff: 8 } },
      hovermode: "x unified", hoverlabel: panel,
      legend: { orientation: "h", yref: "container", yanchor: "bottom", y: 0, xanchor: "left", x: 0, bgcolor: clear,
        traceorder: "normal" },
    } };
  };
  const coarse = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page, it does not zoom
  const draw = (chart) => {
    const figure = painted(figures[chart.parentElement.id]);
    const layout = { ...figure.layout, template: template(), dragmode: coarse ? false : "zoom" };
    Plotly.react(chart, figure.data, layout, { responsive: true, displayModeBar: false });
  };
  const drawn = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        observer.unobserve(target);
        drawn.add(target);
        draw(target);
      }
    }
  }, { rootMargin: "600px" });
  const charts = document.querySelectorAll(".chart");
  charts.forEach((chart) => observer.observe(chart));
  document.addEventListener("theme", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => charts.forEach(draw));
})();
