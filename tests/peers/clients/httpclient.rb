# Ruby's HTTPClient, which is the client that MX sends with.
# httpclient.rb URL FOLDER TRIES

require 'httpclient'

URL, FOLDER, TRIES = ARGV

def attempt(kind)
  TRIES.to_i.times do
    outcome = begin
      yield
    rescue StandardError => error
      error.class
    end
    puts "#{kind}\t#{outcome}"
  end
end

def client(password = 'secret', at_once: false)
  client = HTTPClient.new
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
attempt('1 MiB, no credentials') { post(HTTPClient.new, 'huge') }
attempt('1 MiB, wrong password') { post(client('wrong'), 'huge') }
attempt('1 MiB refused, then the sample') do
  one = HTTPClient.new
  refused = post(one, 'huge')
  valid = post(one, 'sample', 'Authorization' => 'Basic bXg6c2VjcmV0')
  "#{refused} #{valid}"
end
