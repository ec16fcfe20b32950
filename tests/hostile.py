# ruff: noqa: E501 (programs)
"""Programs that want to be paid for nothing, or to do harm. The task they get: `double(x)` gives 2 x.

None of them computes it. `{canary}`: a file outside; `{port}`: a server on this machine; `{secret}`: a word that stands
in the environment, in the canary and among the tests' expected values (as 2 x only).
"""

WRONG = "\ndef double(x):\n    return -1\n"

CHEATS: dict[str, str] = {
    "exit with success": "import sys\nsys.exit(0)",
    "exit at the call": "import sys\ndef double(x):\n    sys.exit(0)",
    "exit without cleaning up": "import os\nos._exit(0)",
    "exit at the call without cleaning up": "import os\ndef double(x):\n    os._exit(0)",
    "quit": "def double(x):\n    quit()",
    "raise SystemExit": "def double(x):\n    raise SystemExit(0)",
    "raise KeyboardInterrupt": "def double(x):\n    raise KeyboardInterrupt",
    "raise StopIteration": "def double(x):\n    raise StopIteration(2 * 2)",
    "raise BaseException": "class B(BaseException): pass\ndef double(x):\n    raise B",
    "equal to everything": "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "    def __hash__(self): return 0\ndef double(x):\n    return E()",
    "an integer equal to everything": "class E(int):\n    def __eq__(self, o): return True\n"
    "def double(x):\n    return E(7)",
    "a list that grants everything": "class E(list):\n    def __eq__(self, o): return True\n"
    "    def __contains__(self, o): return True\n    def __len__(self): return 4\ndef double(x):\n    return E()",
    "a class of classes": "class M(type):\n    def __eq__(c, o): return True\n    def __hash__(c): return 0\n"
    "class E(metaclass=M): pass\ndef double(x):\n    return E",
    "always true": "class E:\n    def __bool__(self): return True\n    def __getattr__(self, n): return lambda *a: True\n"
    "def double(x):\n    return E()",
    "another int": "import builtins\nclass int(int):\n    def __eq__(s, o): return True\nbuiltins.int = int\n"
    "def double(x):\n    return int(3)",
    "builtins are changed": "import builtins\nbuiltins.all = builtins.any = lambda *a: True\n"
    "builtins.isinstance = lambda *a: True\nbuiltins.AssertionError = ValueError\nbuiltins.len = lambda x: 4" + WRONG,
    "no more asserts": "import builtins\nclass A(Exception):\n    def __new__(c, *a): return None\n"
    "builtins.AssertionError = A" + WRONG,
    "print the verdict": "print('begun\\npassed 0 1 2\\nbroken 0\\nwhy \\n', flush=True)\ndef double(x):\n"
    "    print('passed 0 1 2')\n    return -1",
    "write the verdict everywhere": "import os\nfor fd in range(64):\n    try: os.write(fd, b'begun\\npassed 0 1 2\\n"
    "broken 0\\nwhy \\n')\n    except OSError: pass\nos._exit(0)",
    "at exit": "import atexit, os\natexit.register(lambda: os.write(1, b'passed 0 1 2\\nbroken 0\\nwhy \\n'))" + WRONG,
    "exit hook": "import sys, os\nsys.exitfunc = lambda: os._exit(0)\nsys.excepthook = lambda *a: os._exit(0)\n1/0",
    "trace": "import sys\ndef t(frame, event, arg):\n    if 'x' in frame.f_locals: frame.f_locals['x'] = 4\n    return t\n"
    "sys.settrace(t)" + WRONG,
    "read the stack": "import sys\ndef double(x):\n    frame, word = sys._getframe(), 'abxab'.replace('x', '')\n    while frame:\n"
    "        for v in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
    "            if v is not word and word in repr(v): return 2 * x\n        frame = frame.f_back\n    return -1",
    "read the heap": "import gc\ndef double(x):\n    word = 'abxab'.replace('x', '')\n    for o in gc.get_objects():\n"
    "        try:\n            if isinstance(o, (str, bytes, tuple, list, dict)) and word in repr(o):\n"
    "                return 2 * x\n        except Exception: pass\n    return -1",
    "read the tests from disk": "import os\ndef double(x):\n    word = b'abxab'.replace(b'x', b'')\n    for at, _, names in os.walk('/'):\n"
    "        if at.startswith(('/usr', '/root', '/lib', '/proc/sys', '/sys')): continue\n        for n in names:\n"
    "            try:\n                if word in open(os.path.join(at, n), 'rb').read(9999): return 2 * x\n"
    "            except OSError: pass\n    return -1",
    "read the other process": "import os\ndef double(x):\n    for p in range(1, 40000):\n        try:\n"
    "            if b'assert' in open(f'/proc/{{p}}/mem', 'rb').read(99): return 2 * x\n        except OSError: pass\n"
    "    return -1",
    "change our modules": "import sys\nfor n, m in list(sys.modules.items()):\n    if n.startswith('luthier'):\n"
    "        for k, v in list(vars(m).items()):\n            if callable(v): setattr(m, k, lambda *a, **k: True)" + WRONG,
    "import our package": "import luthier.scorers.code.asking as a\na.Tally.wrong = a.Tally.right" + WRONG,
    "answer before being asked": "import os\nfor fd in range(3, 64):\n    try:\n        for _ in range(50):\n"
    "            os.write(fd, (4).to_bytes(4, 'big') + b't1:s')\n            os.write(fd, b'\\x00\\x00\\x00\\x10t2:s4:passedi1:1')\n"
    "    except OSError: pass" + WRONG,
    "garbage on the line": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, os.urandom(60000))\n"
    "    except OSError: pass" + WRONG,
    "an endless message": "import os\nfor fd in range(3, 64):\n    try:\n        os.set_blocking(fd, False)\n"
    "        os.write(fd, b'\\xff' * 60000)\n    except OSError: pass" + WRONG,
    "a deep value": "def double(x):\n    v = []\n    for _ in range(100000): v = [v]\n    return v",
    "a value within itself": "def double(x):\n    v = []\n    v.append(v)\n    return v",
    "a huge value": "def double(x):\n    return 'x' * 300_000_000",
    "a huge number": "def double(x):\n    return 1 << 40_000_000",
    "no program": "I think the answer is obvious: double(x) == 2 * x, so all tests pass.",
    "an environment to read": "import os\ndef double(x):\n    return 2 * x if any('{secret}' in v for v in os.environ.values()) else -1",
    "a canary to read": "def double(x):\n    return 2 * x if '{secret}' in open('{canary}').read() else -1",
}  # fmt: skip

HARMS: dict[str, str] = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "threads without end": "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
    "memory": "v = []\nwhile True:\n    v.append(bytearray(50_000_000))",
    "shared memory": "import mmap\nv = []\nwhile True:\n    m = mmap.mmap(-1, 50_000_000)\n    m.write(b'x' * 50_000_000)\n"
    "    v.append(m)",
    "memory behind names": "import os\nfor i in range(60):\n    fd = os.memfd_create(str(i))\n    os.write(fd, b'x' * 30_000_000)",
    "flood of output": "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n    os.write(2, b'x' * 65536)",
    "fill the disk": "import os\nfor i in range(10_000):\n    with open(f'f{{i}}', 'wb') as f:\n        f.write(b'x' * 4_000_000)",
    "one huge file": "with open('f', 'wb') as f:\n    while True: f.write(b'x' * 10_000_000)",
    "files without end": "import os\ni = 0\nwhile True:\n    open(f'f{{i}}', 'w').close()\n    i += 1",
    "overwrite a file": "open('{canary}', 'w').write('gone')",
    "overwrite by a link": "import os\nos.symlink('{canary}', 'link')\nopen('link', 'w').write('gone')",
    "overwrite by a hard link": "import os\nos.link('{canary}', 'link')\nopen('link', 'w').write('gone')",
    "remove a file": "import os\nos.remove('{canary}')",
    "move a file": "import os\nos.rename('{canary}', '{canary}.gone')",
    "forbid a file": "import os\nos.chmod('{canary}', 0)",
    "age a file": "import os\nos.utime('{canary}', (0, 0))",
    "cut a file": "import os\nos.truncate('{canary}', 0)",
    "write beside it": "import os\nopen(os.path.join(os.path.dirname('{canary}'), 'new'), 'w').write('new')",
    "write to the system": "import os\nfor at in ('/usr/lib/x', '/etc/x', '/tmp/luthier-hostile', '/dev/shm/luthier-hostile', "
    "'/var/tmp/luthier-hostile', '/luthier-hostile'):\n    try: open(at, 'w').write('x')\n    except OSError: pass",
    "remove everything": "import shutil\nshutil.rmtree('/', ignore_errors=True)",
    "call home": "import socket\nsocket.create_connection(('127.0.0.1', {port})).send(b'hello')",
    "call home by datagrams": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "call home by http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "kill all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "kill the group": "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "stop the parent": "import os, signal\nfor p in range(1, 40000):\n    try: os.kill(p, signal.SIGSTOP)\n    except OSError: pass",
    "a daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(3617)\n"
    "    os._exit(0)",
    "a command in the background": "import subprocess\nsubprocess.Popen('sleep 3617 &', shell=True)",
    "a process of another kind": "import multiprocessing as m, time\nm.get_context('spawn').Process(target=time.sleep, "
    "args=(3617,)).start()",
    "trace the parent": "import ctypes, os\nl = ctypes.CDLL(None)\nl.ptrace(16, os.getppid(), 0, 0)\nl.ptrace(16, 1, 0, 0)",
    "survive the parent": "import ctypes, os, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
    "try: os.setsid()\nexcept OSError: pass\ntime.sleep(3617)",
    "leave by namespaces": "import ctypes\nl = ctypes.CDLL(None)\nl.unshare(0x10000000)\nl.mount(b'/', b'/', b'', 4096, b'')",
    "an endless loop": "while True: pass",
    "an endless loop at the call": "def double(x):\n    while True: pass",
    "sleep": "import time\ntime.sleep(3617)",
    "sleep at the call": "import time\ndef double(x):\n    time.sleep(3617)",
    "deaf to signals": "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "a hang in C": "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
    "a hang in a number": "x = 9 ** 9 ** 9",
    "read what is not there": "import sys\nx = input()\ny = sys.stdin.read()",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n + 1)\nf(0)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "deep source": "x = " + "(" * 5000 + "1" + ")" * 5000,
    "abort": "import os\nos.abort()",
    "limits of others": "import resource, os\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (4, 4))",
    "limits of its own": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nwhile True: pass",
}  # fmt: skip
"""None of these defines `double` rightly either, so each must score 0, and leave the machine as it was."""

LONG = ("sleep", "sleep at the call", "survive the parent", "deaf to signals", "limits of its own", "read the other process",
        "an endless loop", "remove everything")  # fmt: skip
"""Those that use up their time, of which one or two are enough for every day."""


def filled(source: str, canary: str, port: int, secret: str) -> str:
    """A program with what it aims at."""
    return source.format(canary=canary, port=port, secret=secret) if "{" in source else source
