"""What the tests know of cowflush itself; the harness does not use it.

daemon     starts the daemon in a guest, and waits for what it does
flood      recognizes the blocks of `guest-tools flood`
flushlog   a second reader of the flush log, from its description alone
jsondoc    checks printed JSON against docs/json.md
logged     a guest with a flush log, and its card seen from outside
logwriter  a second writer of the flush log
router     what the tests ask a guest about cowflush, and what must hold between commands
sweep      kills a command at each of its stops in turn
workload   a writer in the guest whose files prove themselves
"""
