"""The markup of report.html (Jinja2). Everything is escaped, since prompts and names are anybody's text."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{{ script_hash }}'">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="soft">{{ subtitle }}</p>
<p class="lead">{{ headline | replace(" = ", "\u00a0=\u00a0") }}</p>
{% for text in warnings %}<p class="warning" role="note">{{ text }}</p>
{% endfor %}
<dl class="tiles">
{% for tile in tiles %}<div class="card"><dt>{{ tile.name }}</dt><dd class="big">{{ tile.value }}</dd>
<dd class="soft">{{ tile.more }}</dd></div>
{% endfor %}</dl>

<h2>Curves</h2>
<p class="soft">Point at a chart, or focus it and use the arrow keys, to read the values of a round.
{% if band %}Bands are one standard error over the questions.{% endif %}</p>
<div class="charts">
{% for chart in charts %}<figure class="card"
{% if chart.points %}data-points="{{ chart.points | tojson | forceescape }}"{% endif %}>
<figcaption id="{{ chart.name }}-caption">{{ chart.title }}</figcaption>
<ul class="legend">{% for line in chart.legend %}<li{% if line.thin %} class="thin"{% endif %}>
<i style="border-color: var(--{{ line.color }})"></i>{{ line.label }}</li>{% endfor %}</ul>
<div class="plot"{% if chart.points %} tabindex="0" role="group" aria-labelledby="{{ chart.name }}-caption"
 aria-describedby="{{ chart.name }}-summary"{% endif %}>
{{ chart.svg }}
<div class="mark" hidden></div><div class="tip" role="status" hidden></div></div>
<p class="soft" id="{{ chart.name }}-summary">{{ chart.summary }}</p>
<details><summary>Figures of this chart</summary><div class="scroll" tabindex="0" role="region"
 aria-label="figures: {{ chart.title }}"><table>
<thead><tr>{% for name in chart.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in chart.rows %}<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></details>
</figure>
{% endfor %}</div>

<h2>Utility</h2>
{% if utility %}<div class="card"><table>
<thead><tr><th scope="col">score</th><th scope="col">base model</th><th scope="col">after fine-tuning</th></tr></thead>
<tbody>{% for name, base, tuned in utility %}<tr><th scope="row">{{ name }}</th>
<td>{{ base }}</td><td>{{ tuned }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">{{ scored_on }} The held-out examples were named public by who ran this.</p>
{% else %}<p>No evaluation data was configured (<code>data.evaluation</code>).</p>{% endif %}
{% if private %}<h3>On clients' own rows</h3>
<div class="card"><table>
<thead><tr><th scope="col">score</th><th scope="col">base model</th><th scope="col">after fine-tuning</th></tr></thead>
<tbody>{% for name, base, tuned in private %}<tr><th scope="row">{{ name }}</th>
<td>{{ base }}</td><td>{{ tuned }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">{{ privately_scored_on }}</p>{% endif %}
{% if strategy %}<p>Strategy: {{ strategy }}.</p>{% endif %}

{% if samples %}<h2>Examples</h2>
<p class="soft">Held-out examples, evenly spread over the set and not picked by how they came out.</p>
<div class="samples">
{% for sample in samples %}<article class="card"><h3>{{ sample.prompt }}</h3>
{% if "choices" in sample %}<table class="choices">
<thead><tr><th scope="col">choice</th><th scope="col">base model</th><th scope="col">after fine-tuning</th></tr></thead>
<tbody>{% for choice in sample.choices %}<tr>
<th scope="row"{% if choice.text == sample.reference %} class="right"{% endif %}>
{{ choice.text }}{% if choice.text == sample.reference %} (right){% endif %}</th>
{% for share, kind in [(choice.base, "bar"), (choice.tuned, "bar tuned")] %}
<td>{{ "%.1f %%" | format(100 * share) }}
<span class="{{ kind }}" style="width: {{ "%.1f" | format(100 * share) }}%"></span></td>
{% endfor %}</tr>
{% endfor %}</tbody></table>
{% else %}<dl class="answers"><div><dt>reference</dt><dd>{{ sample.reference }}</dd></div>
<div><dt>base model</dt><dd>{{ sample.base or "(nothing)" }}</dd></div>
<div><dt>after fine-tuning</dt><dd>{{ sample.tuned or "(nothing)" }}</dd></div></dl>{% endif %}
</article>
{% endfor %}</div>{% endif %}

<h2>Privacy of this run</h2>
<div class="card"><table class="facts stack"><tbody>
{% for name, value in privacy.items() %}<tr><th scope="row">{{ name | code }}</th><td>{{ value | code }}</td></tr>
{% endfor %}<tr><th scope="row">cross-check</th><td>{{ cross_check }}</td></tr></tbody></table></div>
<h2>Who sees what</h2>
<div class="card"><table class="stack">
<thead><tr><th scope="col">party</th><th scope="col">sees</th><th scope="col">promised against it</th></tr></thead>
<tbody>{% for party, sees, promise in parties %}<tr><th scope="row">{{ party }}</th>
<td data-label="sees">{{ sees | code }}</td><td data-label="promised">{{ promise }}</td></tr>
{% endfor %}</tbody></table></div>
<h3 style="margin-top: 1.2rem">Assumed</h3>
<ul>{% for text in assumed %}<li>{{ text }}</li>{% endfor %}</ul>

<h2>Bytes on the wire</h2>
<div class="card"><table class="stack">
<thead><tr><th scope="col">serialized records</th><th scope="col">this run</th>
<th scope="col">plain LoRA, same terms</th></tr></thead>
<tbody>{% for name, own, plain in bytes %}<tr><th scope="row">{{ name }}</th><td data-label="this run">{{ own }}</td>
<td{% if plain %} data-label="plain LoRA"{% endif %}>{{ plain }}</td></tr>
{% endfor %}</tbody></table></div>

<h2>Repeat it</h2>
<pre tabindex="0" role="region" aria-label="command">{{ command }}</pre>
<p class="soft">Noise and cohorts come from the operating system, so a private run's figures differ a little each time.
Of files and folders only the last part of the name is told.</p>
<details><summary>Settings that are not the defaults</summary>
{% if changed %}<table><tbody>{% for key, value in changed.items() %}<tr><th scope="row"><code>{{ key }}</code></th>
<td><code>{{ value }}</code></td></tr>{% endfor %}</tbody></table>{% else %}<p>None.</p>{% endif %}</details>
<details><summary>All settings</summary><table><tbody>{% for key, value in settings.items() %}<tr>
<th scope="row"><code>{{ key }}</code></th><td><code>{{ value }}</code></td></tr>{% endfor %}</tbody></table></details>
<h3 style="margin-top: 1.2rem">Versions</h3>
<p class="soft">{{ versions }}</p>
</main>
<script>{{ script }}</script>
</body>
</html>
"""
