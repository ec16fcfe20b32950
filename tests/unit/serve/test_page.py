"""The chat page in a browser: what it asks, shows and remembers. The server's answers are fed by hand."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FED = """<script>
let known = [{id: "one", kind: "base", default: true}, {id: "two", kind: "adapter"}];
const asked = [], feeds = [];
window.fetch = async (url, options) => {
  if (url === "/v1/models") return new Response(JSON.stringify({data: known}));
  asked.push(JSON.parse(options.body));
  return new Response(new ReadableStream({start(to) {
    feeds.push({
      say: delta => to.enqueue(new TextEncoder().encode("data: " + JSON.stringify({choices: [{delta}]}) + "\\n\\n")),
      end: word => { if (word) to.enqueue(new TextEncoder().encode("data: " + word + "\\n\\n")); to.close(); },
    });
    options.signal.addEventListener("abort", () => to.error(new DOMException("", "AbortError")));
  }}));
};
</script>"""
DONE = """<script>
const soon = () => new Promise(done => setTimeout(done, 50));
const send = async words => {
  at("words").value = words; at("ask").requestSubmit(); await soon();
  return feeds.at(-1);
};
const shown = kind => [...document.querySelectorAll(kind)].map(one => one.textContent);
const found = {};
(async () => {
  await soon();
  at("temperature").value = "";
  let feed = await send("hello");
  feed.say({reasoning_content: "let me "}); feed.say({reasoning_content: "see"}); feed.say({content: "yes"});
  feed.end("[DONE]"); await soon();
  found.thought = [shown(".thoughts div"), shown(".answer > div"), shown(".fault")];
  found.emptied = asked.at(-1);

  feed = await send("more"); feed.say({content: "half"}); feed.end(); await soon();
  found.broken = shown(".fault");

  feed = await send("the old talk"); feed.say({content: "old"}); await soon();
  at("anew").click(); await soon();
  found.between = [shown(".turn"), at("send").textContent];
  at("temperature").value = "0.5";
  feed = await send("the new talk");
  found.fresh = [asked.at(-1).messages, asked.at(-1).temperature, at("send").textContent];
  feed.say({content: "new"}); feed.end("[DONE]"); await soon();
  found.after = at("send").textContent;

  at("first").value = "two"; at("second").value = "one";
  known = [{id: "one", kind: "base", default: true}];
  at("key").dispatchEvent(new Event("change")); await soon();
  found.gone = shown(".fault");
  await send("who is there?");
  found.instead = asked.at(-1).model;
  const made = document.createElement("pre"); made.id = "found"; made.textContent = JSON.stringify(found);
  document.body.append(made);
})();
</script>"""


@pytest.mark.skipif(not BROWSER, reason="no browser is installed")
def test_the_page(tmp_path: Path) -> None:
    page = (files("luthier.serve") / "page.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(
        page.replace("<script>", FED + "<script>", 1).replace("</html>", DONE + "</html>")
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    written = re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    assert written, shown[-2000:]
    found: Any = json.loads(html.unescape(written[1]))

    assert found["thought"] == [["let me see"], ["yes"], []]
    assert "temperature" not in found["emptied"] and found["emptied"]["max_tokens"] == 512
    assert len(found["broken"]) == 1 and "broke off" in found["broken"][0]
    assert found["between"] == [[], "Send"]
    assert found["fresh"] == [[{"role": "user", "content": "the new talk"}], 0.5, "Stop"]
    assert found["after"] == "Send"
    assert found["gone"] == ["two is not there any more"] and found["instead"] == "one"
