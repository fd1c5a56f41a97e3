"""The page of ``dr-encoder watch``: it asks for the status every two seconds and writes it down as text."""

from server_app.results.html.script import SCRIPT, hash_of
from server_app.results.html.style import THEME

_STYLE = (
    THEME
    + """
header { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; align-items: baseline; justify-content: space-between; }
.state { display: inline-block; border-radius: 999px; padding: .1rem .8rem; font-weight: 600; font-size: .95rem;
  background: var(--card); border: 1px solid var(--grid); }
.state::before { content: ""; display: inline-block; width: .6em; height: .6em; border-radius: 50%;
  background: var(--muted); margin-right: .45em; }
.state.running::before, .state.finished::before { background: var(--teal); }
.state.waiting::before, .state.stopped::before, .state.minded::before { background: var(--orange); }
.state.failed, .state.killed { color: var(--bad); background: var(--bad-back); }
.state.failed::before, .state.killed::before { background: var(--bad); }
button { font: inherit; font-weight: 600; color: var(--bad); background: var(--card); border: 1px solid var(--bad);
  border-radius: 8px; padding: .45rem 1rem; cursor: pointer; }
button:disabled { color: var(--soft); border-color: var(--grid); cursor: default; }
progress { width: 100%; height: .7rem; accent-color: var(--blue); margin-top: .4rem; }
.scroll { overflow: auto; max-height: 26rem; }
.scroll th, .scroll td { white-space: nowrap; }
.scroll tr > :last-child { white-space: normal; min-width: 14rem; padding-right: 0; }
.bad { color: var(--bad); font-weight: 600; }
[hidden] { display: none !important; }
"""
)

_SCRIPT = """
"use strict";
const token = new URLSearchParams(location.search).get("token");
const at = (id) => document.getElementById(id);
const number = (value, digits) => value === null || value === "" ? "–" : Number(value).toLocaleString("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits });
const up = (value) => value === null ? "–" : value === "inf" ? "∞" : number(Math.ceil(value * 1000) / 1000, 3);
const share = (value) => number(100 * value, 1) + " %";
const NAMES = { private_accuracy: "next token right on clients' own rows", private_loss: "loss there" };
const clock = (seconds) => {
  if (seconds === null) return "–";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return (hours ? hours + ":" + String(minutes).padStart(2, "0") : minutes) + ":" + String(whole % 60).padStart(2, "0");
};
const write = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };
const fill = (id, rows) => {
  const body = at(id);
  body.closest(".card").hidden = !rows.length;
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell, place) => {
      const made = document.createElement(place ? "td" : "th");
      if (!place) made.scope = "row";
      if (cell && cell.bad) made.className = "bad";
      made.textContent = cell && cell.bad ? cell.bad : cell;
      return made;
    }));
    return row;
  }));
};
const told_score = (score) => {
  const figure = (value) => score.name.endsWith("accuracy") ? share(value) : number(value, 3);
  const error = !score.error ? "" : " ± " + (score.name.endsWith("accuracy") ? number(100 * score.error, 1)
    : number(score.error, 3));
  const change = score.last === null ? figure(score.base) + " (base model)"
    : figure(score.base) + " → " + figure(score.last);
  return (NAMES[score.name] || score.name) + " " + change + error;
};
const show = (told) => {
  write("title", told.run.name);
  document.title = told.state + ": " + told.run.name;
  write("about", [told.run.strategy, told.run.model, told.run.data].filter(Boolean).join(" · "));
  at("state").className = "state " + (told.warnings.length ? "minded" : told.state);
  at("warnings").hidden = !told.warnings.length;
  write("warnings", told.warnings.join("; "));
  write("state", told.stop_asked ? "stopping" : told.state);
  write("detail", told.stop_asked ? "it stops before the next round is charged" : told.detail || told.now);
  at("resume").hidden = !told.resume;
  write("resume", told.resume);
  at("report").hidden = !told.report;
  if (told.report) at("report").href = told.report + "?token=" + encodeURIComponent(told.report_token);
  const going = told.state === "running" || told.state === "waiting";
  at("stop").disabled = !going || told.stop_asked;
  write("rounds", told.rounds.done + " of " + told.rounds.planned);
  at("progress").max = told.rounds.planned || 1;
  at("progress").value = told.rounds.done;
  write("left", clock(told.seconds.left));
  write("elapsed", clock(told.seconds.elapsed) + " so far");
  write("spent", up(told.epsilon.spent));
  write("budget", "of " + up(told.epsilon.budget) + " planned"
    + (told.epsilon.server === null ? "" : "; one client against the server " + up(told.epsilon.server)));
  write("online", told.nodes.online === null ? "–" : told.nodes.online + " of " + told.nodes.enrolled);
  write("needed", told.nodes.needed === null ? "" : told.nodes.needed + " must be online before a round is charged");
  const noise = told.last_rounds[0];
  write("noise", noise ? number(noise.noise_present, 3) : "–");
  write("promised", noise ? noise.shortage || number(noise.noise_promised, 3) + " promised, std on the sum of codes"
    : "");
  const less = noise && (noise.shortage || noise.noise_present < noise.noise_promised * 0.999);
  at("noise").className = less ? "big bad" : "big";
  write("scores", told.scores.map(told_score).join(", ") || (told.last_rounds.length ? "nothing is scored" : ""));
  fill("last-rounds", told.last_rounds.map((row) => [
    String(row.round), row.shortage ? { bad: row.replies + " of " + row.cohort } : row.replies + " of " + row.cohort,
    row.accuracy === null ? "" : share(row.accuracy), row.loss === null ? "" : number(row.loss, 3),
    row.private_accuracy === null ? "" : share(row.private_accuracy) + (row.private_accuracy_error
      ? " ± " + number(100 * row.private_accuracy_error, 1) : ""),
    up(row.epsilon), number(row.noise_present, 3) + " / " + number(row.noise_promised, 3),
    clock(row.seconds), row.shortage || row.failure || ""]));
  for (const place of [2, 3, 4]) {  // a score that this run does not have takes no room
    const cells = [...at("last-rounds").closest("table").querySelectorAll(`tr > :nth-child(${place + 1})`)];
    const empty = cells.slice(1).every((cell) => !cell.textContent);
    for (const cell of cells) cell.hidden = empty;
  }
  at("no-rounds").hidden = told.last_rounds.length > 0;
  fill("sites", told.sites.rows.map((site) => [
    site.name, site.seconds_since_answer === null ? "not yet" : clock(site.seconds_since_answer) + " ago",
    site.unanswered ? { bad: String(site.unanswered) } : "0", site.reason]));
  write("more-sites", told.sites.more ? told.sites.more + " more are not listed." : "");
  fill("failures", told.failures.map((event) => [
    event.time.slice(11, 19) + " UTC", event.round === null ? "" : String(event.round), event.what, event.who,
    event.reason]));
  at("no-failures").hidden = told.failures.length > 0;
};
const ask = async (path, options) => {
  const answer = await fetch(path, { ...options, headers: { Authorization: "Bearer " + token } });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
};
const look = async () => {
  try {
    show(await ask("status"));
    at("lost").hidden = true;
  } catch (error) {
    at("lost").hidden = false;
    write("lost", (error instanceof TypeError ? "dr-encoder watch does not answer" : error.message)
      + "; what is below may be old.");
  }
};
at("stop").addEventListener("click", () => at("sure").showModal());
at("sure").addEventListener("close", async () => {
  if (at("sure").returnValue !== "stop") return;
  await ask("stop", { method: "POST" }).catch(() => undefined);
  await look();
});
look();
setInterval(look, 2000);
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>dr-encoder watch</title>
<style>STYLE</style>
</head>
<body>
<main>
<header><div><h1 id="title">…</h1><p class="soft" id="about"></p></div>
<button id="stop" type="button" disabled>Stop the run</button></header>
<p class="warning" id="lost" role="alert" hidden></p>
<p role="status"><span class="state" id="state">…</span> <span id="detail"></span></p>
<pre id="resume" tabindex="0" role="region" aria-label="how to go on" hidden></pre>
<p class="warning" id="warnings" role="alert" hidden></p>
<p><a id="report" href="report.html" hidden>Open the report</a></p>
<dl class="tiles">
<div class="card"><dt>rounds</dt><dd class="big" id="rounds">–</dd>
<dd><progress id="progress" aria-label="rounds done" max="1" value="0"></progress></dd></div>
<div class="card"><dt>time left</dt><dd class="big" id="left">–</dd><dd class="soft" id="elapsed"></dd></div>
<div class="card"><dt>ε spent, released model</dt><dd class="big" id="spent">–</dd>
<dd class="soft" id="budget"></dd></div>
<div class="card"><dt>noise present, last round</dt><dd class="big" id="noise">–</dd>
<dd class="soft" id="promised"></dd></div>
<div class="card"><dt>nodes online</dt><dd class="big" id="online">–</dd><dd class="soft" id="needed"></dd></div>
</dl>
<p class="soft" id="scores"></p>
<h2>Sites</h2>
<p class="soft">Who did not answer comes first. <span id="more-sites"></span></p>
<div class="card scroll" tabindex="0" role="region" aria-label="sites"><table><thead><tr><th scope="col">site</th>
<th scope="col">last answer</th><th scope="col">rounds unanswered</th><th scope="col">last failure</th></tr></thead>
<tbody id="sites"></tbody></table></div>
<h2>What went wrong</h2>
<p class="soft" id="no-failures">Nothing so far.</p>
<div class="card scroll" tabindex="0" role="region" aria-label="what went wrong"><table><thead><tr>
<th scope="col">time</th><th scope="col">round</th><th scope="col">what</th><th scope="col">who</th>
<th scope="col">reason</th></tr></thead><tbody id="failures"></tbody></table></div>
<h2>Last rounds</h2>
<p class="soft" id="no-rounds">None so far.</p>
<div class="card scroll" tabindex="0" role="region" aria-label="last rounds"><table><thead><tr>
<th scope="col">round</th><th scope="col">answered</th><th scope="col">accuracy</th><th scope="col">loss</th>
<th scope="col">clients' own</th><th scope="col">ε</th><th scope="col">noise present / promised</th>
<th scope="col">time</th><th scope="col">commonest failure</th></tr></thead>
<tbody id="last-rounds"></tbody></table></div>
<p class="soft">This page tells who was asked and who answered: it is for who runs the server and not to be
published.</p>
<dialog id="sure" aria-labelledby="sure-title" class="card"><form method="dialog">
<h2 id="sure-title" style="margin-top: 0">Stop this run?</h2>
<p>What is under way, stage 1 or a round, is finished, since it is paid for; nothing more is charged. The run can be
resumed from there.</p>
<p><button value="stop">Stop it</button> <button value="" autofocus style="color: inherit">Let it run</button></p>
</form></dialog>
</main>
<script>SCRIPT</script>
</body>
</html>
"""


def page() -> str:
    """The page; all that it shows comes from ``/status``."""
    return _PAGE.replace("STYLE", _STYLE).replace("SCRIPT", _SCRIPT)


def policy() -> str:
    """Its content security policy: its own script, and requests to nobody but this server."""
    return f"{_policy(_SCRIPT)}; connect-src 'self'"


def report_policy() -> str:
    """That of report.html, whatever lies in the run's folder under this name: no script but ours, no requests."""
    return _policy(SCRIPT)


def _policy(script: str) -> str:
    return (
        f"default-src 'none'; script-src '{hash_of(script)}'; style-src 'unsafe-inline'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
