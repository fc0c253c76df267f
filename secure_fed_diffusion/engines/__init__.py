"""What carries frames between the server and the clients.  An engine moves bytes and knows no federation."""
