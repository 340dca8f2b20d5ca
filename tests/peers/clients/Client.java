import java.io.IOException;
import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

/** Java's own client: java Client.java URL FOLDER TRIES */
class Client {
    static final String BASIC = "Basic bXg6c2VjcmV0";

    interface Attempt {
        String post() throws IOException, InterruptedException;
    }

    static URI url;
    static int tries;

    public static void main(String[] arguments) throws Exception {
        url = URI.create(arguments[0]);
        tries = Integer.parseInt(arguments[2]);
        var folder = Path.of(arguments[1]);
        var sample = Files.readAllBytes(folder.resolve("sample.json"));
        var large = Files.readAllBytes(folder.resolve("large.json"));
        var huge = Files.readAllBytes(folder.resolve("huge.json"));

        attempt("545 B, challenge first", () -> post(challenged(), sample));
        attempt("60 KiB, challenge first", () -> post(challenged(), large));
        attempt("60 KiB, credentials at once",
            () -> post(HttpClient.newHttpClient(), large, "Authorization", BASIC));
        attempt("60 KiB, no credentials", () -> post(HttpClient.newHttpClient(), large));
        attempt("1 MiB, no credentials", () -> post(HttpClient.newHttpClient(), huge));
        attempt("1 MiB refused, then the sample", () -> {
            var client = HttpClient.newHttpClient();
            var refused = post(client, huge);
            return refused + " " + post(client, sample, "Authorization", BASIC);
        });
        // A client has threads of its own, which need not end.
        System.exit(0);
    }

    static void attempt(String kind, Attempt attempt) throws InterruptedException {
        for (int i = 0; i < tries; i++) {
            String outcome;
            try {
                outcome = attempt.post();
            } catch (IOException error) {
                outcome = error.toString();
            }
            System.out.println(kind + "\t" + outcome);
        }
    }

    static HttpClient challenged() {
        var credentials = new PasswordAuthentication("mx", "secret".toCharArray());
        return HttpClient.newBuilder().authenticator(new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return credentials;
            }
        }).build();
    }

    static String post(HttpClient client, byte[] body, String... headers)
            throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(url)
            .header("Content-Type", "application/json; charset=utf-8")
            .timeout(Duration.ofSeconds(30))
            .POST(BodyPublishers.ofByteArray(body));
        if (headers.length > 0) {
            request.headers(headers);
        }
        return String.valueOf(client.send(request.build(), BodyHandlers.discarding()).statusCode());
    }
}
