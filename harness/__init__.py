"""A private Dovecot on loopback and a raw IMAP client: what `./dev server`, the demo, the bench and the server
tests stand on."""
