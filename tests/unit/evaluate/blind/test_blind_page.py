"""The page of a blind comparison over HTTP."""

from __future__ import annotations

import html
import http.client
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from test_blind import dealt

from luthier.errors import LuthierError
from luthier.evaluate.blind import Blind
from luthier.evaluate.blind.serving import server


@contextmanager
def served(blind: Blind) -> Iterator[int]:
    with server(blind, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving.server_address[1]
        serving.shutdown()
        thread.join()


def ask(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    method = "GET" if body is None else "POST"
    text = body if isinstance(body, str | None) else json.dumps(body)
    connection.request(method, path, text, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    content = response.read()
    kind = response.getheader("content-type", "")
    connection.close()
    return response.status, json.loads(content) if kind == "application/json" else content.decode()


def test_a_rater_goes_through_all_and_comes_back_after_a_stop(tmp_path: Path):
    blind = dealt(tmp_path / "b", 5)
    with served(blind) as port:
        status, page = ask(port, "/")
        assert status == 200 and "哪个回答更好" in page and "http://" not in page and "https://" not in page
        status, first = ask(port, "/item?rater=ann&at=")
        assert status == 200 and (first["at"], first["total"], first["done"], first["said"]) == (0, 5, 0, None)
        assert {first["left"], first["right"]} == {blind.items[first["item"]].x, blind.items[first["item"]].y}
        assert "tuned" not in json.dumps({key: first[key] for key in ("item", "at", "said")})
        status, then = ask(port, "/verdict", {"rater": "ann", "item": first["item"], "said": "right"})
        assert status == 200 and then["at"] == 1 and then["done"] == 1
        assert blind.said()["ann"][first["item"]] == ("y" if blind.left("ann", first["item"]) == "x" else "x")
    with served(Blind(blind.folder)) as port:
        assert ask(port, "/item?rater=ann&at=")[1]["at"] == 1
        assert ask(port, "/item?rater=ann&at=0")[1]["said"] == "right"
        assert ask(port, "/item?rater=bob&at=")[1]["done"] == 0
        for _ in range(4):
            now = ask(port, "/item?rater=ann&at=")[1]
            end = ask(port, "/verdict", {"rater": "ann", "item": now["item"], "said": "tie"})[1]
        assert end == {"at": 5, "total": 5, "done": 5}
        assert ask(port, "/item?rater=ann&at=99")[1]["at"] == 5


def test_what_is_no_verdict_and_who_is_not_this_machine_are_refused(tmp_path: Path):
    blind = dealt(tmp_path / "b", 3)
    good = {"rater": "ann", "item": "01", "said": "left"}
    with served(blind) as port:
        assert ask(port, "/", Host="evil.example")[0] == 421
        assert ask(port, "/verdict", good, Host="evil.example:80")[0] == 421
        assert ask(port, "/verdict", json.dumps(good), **{"content-type": "text/plain"})[0] == 415
        for wrong in ({**good, "said": "x"}, {**good, "item": "99"}, {**good, "rater": " "}, [], {"said": "left"}, "{"):
            assert ask(port, "/verdict", wrong)[0] == 400
        assert ask(port, "/verdict", {**good, "rater": "a" * 20_000})[0] == 413
        assert ask(port, "/item?at=0")[0] == 400 and ask(port, "/item?rater=a&at=x")[0] == 400
        assert ask(port, "/key.sealed")[0] == 404 and ask(port, "/other", good)[0] == 404
        assert not blind.verdicts_path.exists()
        with pytest.raises(LuthierError, match="cannot be served at port"):
            server(blind, port)
        assert ask(port, "/verdict", good)[0] == 200
    assert len(blind.said()["ann"]) == 1


FED = """<script>
const items = ["01", "02", "03"], said = {}, sent = [];
const state = at => {
  at = at === "" ? items.findIndex(one => !(one in said)) : Math.min(Number(at), 3);
  if (at < 0) at = 3;
  const told = {at, total: 3, done: Object.keys(said).length};
  if (at === 3) return told;
  const prompt = [{role: "user", text: "<b>hm</b> " + items[at]}];
  return {...told, item: items[at], prompt, left: "l" + at, right: "r" + at, said: said[items[at]] ?? null};
};
window.fetch = async (url, options) => {
  if (!options) return new Response(JSON.stringify(state(new URLSearchParams(url.split("?")[1]).get("at"))));
  const body = JSON.parse(options.body);
  sent.push(body); said[body.item] = body.said;
  return new Response(JSON.stringify(state("")));
};
</script>"""
DONE = """<script>
const soon = () => new Promise(done => setTimeout(done, 50));
const press = async (key, more) => {
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, ...more}));
  await soon();
};
(async () => {
  const found = {};
  await soon();
  found.first = [at("begin").hidden, at("item").hidden];
  at("name").value = " ann "; at("naming").requestSubmit(); await soon();
  found.shown = [at("prompt").textContent, at("left").textContent, at("prompt").querySelector("b") === null];
  await press("1"); await press("2", {ctrlKey: true}); await press("0"); await press("ArrowLeft");
  found.back = [...document.querySelectorAll(".chosen")].map(one => one.id);
  await press("2"); at("left").click(); await soon();
  found.end = [at("end").hidden, at("keys").hidden, at("bar").value, at("count").textContent];
  found.sent = sent;
  const made = document.createElement("pre"); made.id = "found"; made.textContent = JSON.stringify(found);
  document.body.append(made);
})();
</script>"""
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not BROWSER, reason="no browser is installed")
def test_keys_judge_in_a_browser(tmp_path: Path):
    page = (files("luthier.evaluate.blind") / "page.html").read_text(encoding="utf-8")
    page = page.replace("history.replaceState", "(() => {})").replace("<script>", FED + "<script>", 1)
    (tmp_path / "page.html").write_text(page.replace("</html>", DONE + "</html>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}", "--lang=en"]
    command += ["--virtual-time-budget=8000", "--dump-dom", f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout
    told = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert told is not None, shown[-2000:]
    found = json.loads(html.unescape(told[1]))
    assert found["first"] == [False, True]
    assert found["shown"][0].endswith("<b>hm</b> 01") and found["shown"][1].endswith("l0") and found["shown"][2]
    assert found["back"] == ["none"]
    assert [(one["rater"], one["item"], one["said"]) for one in found["sent"]] == [
        ("ann", "01", "left"), ("ann", "02", "tie"), ("ann", "02", "right"), ("ann", "03", "left"),
    ]  # fmt: skip
    assert found["end"][:3] == [False, True, 3] and "3" in found["end"][3]
