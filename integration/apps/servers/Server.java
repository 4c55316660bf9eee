// A server of many threads that keeps values: "put VALUE" adds one, "state" returns
// their number, their digest, and the connection's number.

import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.*;

class Server {
    static final List<String> values = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        var journal = new FileOutputStream("/data/journal", true);
        int connections = 0;
        try (var server = new ServerSocket(8080)) {
            while (true) {
                var socket = server.accept();
                int number = ++connections;
                new Thread(() -> serve(socket, number, journal)).start();
            }
        }
    }

    static void serve(Socket socket, int number, OutputStream journal) {
        try (socket) {
            var lines = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            for (String line; (line = lines.readLine()) != null; ) {
                String answer;
                synchronized (values) {
                    if (line.startsWith("put ")) {
                        values.add(line.substring(4));
                        journal.write((line.substring(4) + "\n").getBytes(StandardCharsets.UTF_8));
                    }
                    var digest = MessageDigest.getInstance("SHA-256");
                    for (var value : values) digest.update((value + "\n").getBytes(StandardCharsets.UTF_8));
                    answer = "connection " + number + " values " + values.size() + " "
                            + HexFormat.of().formatHex(digest.digest());
                }
                socket.getOutputStream().write((answer + "\n").getBytes(StandardCharsets.UTF_8));
            }
        } catch (Exception error) {
            error.printStackTrace();
        }
    }
}
