"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const names = ["system", "light", "dark"];
  const show = (name) => {
    if (name === "system") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", name);
    button.textContent = "Theme: " + name;
    button.setAttribute("aria-label", "Colour theme: " + (name === "system" ? "as the system" : name));
  };
  const asked = new URLSearchParams(location.search).get("theme");
  let current = names.includes(asked) ? asked : "system";
  show(current);
  button.addEventListener("click", () => {
    current = names[(names.indexOf(current) + 1) % names.length];
    show(current);
  });

  // The numbers under the pointer: of each line of a chart, the point whose x is nearest.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  document.querySelectorAll("svg.chart").forEach((chart) => {
    const lines = [...chart.querySelectorAll("[data-values]")].map((line) => ({
      name: line.dataset.name, points: JSON.parse(line.dataset.values),
    }));
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const at = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
      const near = lines.map((line) => ({
        name: line.name, point: line.points.reduce((a, b) => (Math.abs(b[2] - at) < Math.abs(a[2] - at) ? b : a)),
      }));
      tip.replaceChildren(...near.map(({ name, point }) => {
        const row = document.createElement("div");
        row.textContent = point[1] + "  " + name + " at " + point[0];
        return row;
      }));
      tip.hidden = false;
      const left = event.clientX + 14 + tip.offsetWidth > innerWidth ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14;
      tip.style.left = Math.max(4, left) + "px";
      tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 8) + "px";
    });
    chart.addEventListener("pointerleave", hide);
    addEventListener("scroll", hide, { passive: true });
  });
})();
