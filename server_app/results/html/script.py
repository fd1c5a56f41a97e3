"""The script of report.html: over a chart it tells the values of the nearest round, by pointer or arrow keys."""

import base64
import hashlib

SCRIPT = """
"use strict";
for (const figure of document.querySelectorAll("figure[data-points]")) {
  const points = JSON.parse(figure.dataset.points);
  const plot = figure.querySelector(".plot");
  const mark = plot.querySelector(".mark");
  const tip = plot.querySelector(".tip");
  let shown = -1;
  const show = (number) => {
    shown = Math.max(0, Math.min(points.length - 1, number));
    const point = points[shown];
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = point.label;
    tip.append(head);
    for (const [name, value] of point.values) {
      const line = document.createElement("div");
      line.textContent = name + "  " + value;
      tip.append(line);
    }
    mark.hidden = tip.hidden = false;
    mark.style.left = 100 * point.x + "%";
    const room = plot.clientWidth - tip.offsetWidth;
    const beside = point.x * plot.clientWidth + (point.x < 0.5 ? 10 : -tip.offsetWidth - 10);
    tip.style.left = Math.max(0, Math.min(room, beside)) + "px";
  };
  const hide = () => { shown = -1; mark.hidden = tip.hidden = true; };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width;
    const far = (number) => Math.abs(points[number].x - place);
    let nearest = 0;
    for (let number = 1; number < points.length; number++) if (far(number) < far(nearest)) nearest = number;
    show(nearest);
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = points.length - 1;
    const steps = { ArrowRight: shown + 1, ArrowLeft: shown < 0 ? last : shown - 1, Home: 0, End: last };
    if (event.key === "Escape") hide();
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(steps[event.key]);
  });
}
"""


def hash_of(script: str) -> str:
    """How a content security policy names a script that may run, by its content: ``sha256-...``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
