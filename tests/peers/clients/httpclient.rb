# Ruby's HTTPClient, which is the client that MX sends with. Follows the plan on its standard input, which
# `it/senders.rs` describes.

require 'httpclient'

# HTTPClient sends a request again in silence, once, if it loses the connection. Without that, each loss shows.
class Client < HTTPClient
  # HTTPClient closes its connections when it is told a password.
  def password(url, password)
    return if password == @password

    @password = password
    set_auth(url, 'mx', password)
  end

  private

  def protect_keep_alive_disconnected
    yield
  end
end

# A body of a length that HTTPClient does not know.
Stream = Struct.new(:file) do
  def read(*arguments)
    file.read(*arguments)
  end
end

def post(client, url, credentials, body, *options)
  client.force_basic_auth = %w[once wrong].include?(credentials)
  client.password(url, credentials.start_with?('wrong') ? 'wrong' : 'secret') unless credentials == 'none'
  client.receive_timeout = options.include?('impatient') ? 1 : 30
  headers = { 'Content-Type' => options.include?('text') ? 'text/plain' : 'application/json; charset=utf-8' }
  headers['Content-Encoding'] = 'gzip' if options.include?('gzip')
  content = options.include?('chunked') ? Stream.new(File.open(body, 'rb')) : File.binread(body)
  client.post(url, content, headers).status
rescue HTTPClient::ReceiveTimeoutError
  'timed out'
rescue StandardError => error
  [error.class, error.cause&.class].compact.join(' of ')
end

$stdin.each_line(chomp: true) do |line|
  name, *requests = line.split("\t")
  client = Client.new
  answers = requests.map { |request| post(client, *request.split) }
  puts "#{name}\t#{answers.join(' ')}"
end
