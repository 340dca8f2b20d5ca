import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.HttpTimeoutException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;

/** Java's own client. Follows the plan on its standard input, which `it/senders.rs` describes. */
class Client {
    public static void main(String[] arguments) throws Exception {
        var plan = new BufferedReader(new InputStreamReader(System.in));
        for (var line = plan.readLine(); line != null; line = plan.readLine()) {
            var session = line.split("\t");
            var requests = Arrays.stream(session).skip(1).map(request -> request.split(" ")).toList();
            var client = client(requests.get(0)[1]);
            var answers = new ArrayList<String>();
            for (var request : requests) {
                answers.add(post(client, request));
            }
            System.out.println(session[0] + "\t" + String.join(" ", answers));
        }
        // A client has threads of its own, which need not end.
        System.exit(0);
    }

    static HttpClient client(String credentials) {
        var client = HttpClient.newBuilder();
        if (credentials.endsWith("challenge")) {
            client.authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    return new PasswordAuthentication("mx", password(credentials).toCharArray());
                }
            });
        }
        return client.build();
    }

    static String password(String credentials) {
        return credentials.startsWith("wrong") ? "wrong" : "secret";
    }

    static String post(HttpClient client, String[] words) throws InterruptedException {
        String credentials = words[1], body = words[2];
        var options = Arrays.asList(words).subList(3, words.length);
        try {
            var request = HttpRequest.newBuilder(URI.create(words[0]))
                .header("Content-Type", options.contains("text") ? "text/plain" : "application/json; charset=utf-8")
                .timeout(Duration.ofSeconds(options.contains("impatient") ? 1 : 30))
                .expectContinue(options.contains("expect"))
                .POST(options.contains("chunked")
                    ? BodyPublishers.ofInputStream(() -> open(body))
                    : BodyPublishers.ofFile(Path.of(body)));
            if (options.contains("gzip")) {
                request.header("Content-Encoding", "gzip");
            }
            if (credentials.equals("once") || credentials.equals("wrong")) {
                var basic = Base64.getEncoder().encodeToString(("mx:" + password(credentials)).getBytes());
                request.header("Authorization", "Basic " + basic);
            }
            return String.valueOf(client.send(request.build(), BodyHandlers.discarding()).statusCode());
        } catch (HttpTimeoutException error) {
            return "timed out";
        } catch (IOException error) {
            return error.toString();
        }
    }

    static FileInputStream open(String name) {
        try {
            return new FileInputStream(name);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
