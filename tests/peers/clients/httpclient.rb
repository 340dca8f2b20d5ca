# Ruby's HTTPClient, which is the client that MX sends with.
# httpclient.rb URL FOLDER TRIES

require 'httpclient'

URL, FOLDER, TRIES = ARGV

# HTTPClient sends a request again in silence, once, if it loses the connection. Without that, each loss shows.
class Client < HTTPClient
  private

  def protect_keep_alive_disconnected
    yield
  end
end

def attempt(kind)
  TRIES.to_i.times do
    answer = begin
      yield
    rescue StandardError => error
      [error.class, error.cause&.class].compact.join(' of ')
    end
    puts "#{kind}\t#{answer}"
  end
end

def client(password = 'secret', at_once: false)
  client = Client.new
  client.force_basic_auth = at_once
  client.set_auth(URL, 'mx', password)
  client
end

def post(client, body, headers = {})
  headers = { 'Content-Type' => 'application/json; charset=utf-8' }.merge(headers)
  client.post(URL, File.binread("#{FOLDER}/#{body}.json"), headers).status
end

attempt('545 B, challenge first') { post(client, 'sample') }
attempt('60 KiB, challenge first') { post(client, 'large') }
attempt('60 KiB, credentials at once') { post(client(at_once: true), 'large') }
attempt('60 KiB, no credentials') { post(Client.new, 'large') }
attempt('1 MiB, no credentials') { post(Client.new, 'huge') }
attempt('1 MiB, wrong password') { post(client('wrong'), 'huge') }
attempt('1 MiB refused, then the sample') do
  one = Client.new
  refused = post(one, 'huge')
  valid = post(one, 'sample', 'Authorization' => 'Basic bXg6c2VjcmV0')
  "#{refused} #{valid}"
end
