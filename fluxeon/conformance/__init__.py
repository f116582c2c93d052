"""A Beckn counterparty that tries an implementation: ``fluxeon conformance run``.

==============  =====================================================================
``case``        what a case is, how it ends
``speech``      the words of a protocol generation
``draft``       a message being made, right or wrong on purpose
``transport``   sends exact bytes, also badly
``station``     the suite's own identities, endpoint and registry
``expect``      what an answer or a callback must be
``session``     one target, one station, and what has been said between them
``drive``       makes our own gateway want to buy
``cases``       the cases, one module per group
``run``         plays them in order
``report``      table, JSON, JUnit
==============  =====================================================================
"""
