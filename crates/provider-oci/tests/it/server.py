import os, socket

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(os.environ["PORT"])))
server.listen(16)
while True:
    connection, _ = server.accept()
    words = connection.recv(1000).decode().split()
    if words[:1] == ["exit"]:
        print("the last words", flush=True)
        os._exit(int(words[1]))
    if words:
        connection.sendall(b"hello")
    connection.close()
