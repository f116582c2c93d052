"""``fluxeon demo``: the whole story on one machine, as real processes over HTTP.

* :mod:`~fluxeon.demo.source`  what is replayed: bundled sample, simulator, CSV
* :mod:`~fluxeon.demo.window`  which days of it: pure
* :mod:`~fluxeon.demo.script`  the replay as a list of instants: pure
* :mod:`~fluxeon.demo.world`   the processes
* :mod:`~fluxeon.demo.client`  what is said to them
* :mod:`~fluxeon.demo.replay`  the loop
* :mod:`~fluxeon.demo.summary` what came of it: pure
* :mod:`~fluxeon.demo.display` what is seen meanwhile

Nothing in the gateway knows that it is in a demo: everything goes through its public API.
"""
