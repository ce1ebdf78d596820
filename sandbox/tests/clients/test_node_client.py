"""HubSpot's own client from npm against the sandbox: `node_client.js` does the calls, this starts it and judges the log."""

import subprocess
import unittest
from pathlib import Path

from sandbox import Sandbox, problems


class NodeClient(unittest.TestCase):
    def test_the_client_works(self):
        sandbox = Sandbox()
        try:
            command = ["node", Path(__file__).with_name("node_client.js"), sandbox.url, sandbox.refresh_token()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        finally:
            log = sandbox.stop()
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        self.assertEqual(8, done.stdout.count("ok: "), done.stdout)
        found, _, _ = problems(log)
        self.assertFalse(found, "\n" + "\n".join(found))
        self.assertGreaterEqual(len({(r["method"], r["path"]) for r in log}), 30)


if __name__ == "__main__":
    unittest.main()
