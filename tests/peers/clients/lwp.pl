# Perl's LWP. Follows the plan on its standard input, which `it/senders.rs` describes.

use strict;
use warnings;

package Agent;
use parent 'LWP::UserAgent';

# Answers a challenge of any realm.
sub get_basic_credentials {
    my ($self) = @_;
    return $self->{mx_password} ? ('mx', $self->{mx_password}) : ();
}

package main;
use HTTP::Request;

# A lost connection is an error of the request, and not the end of the program.
$SIG{PIPE} = 'IGNORE';

sub content_of {
    my ($name) = @_;
    open my $file, '<:raw', $name or die "$name: $!";
    local $/;
    return <$file>;
}

sub post {
    my ($agent, $url, $credentials, $body, @options) = @_;
    my %has = map { $_ => 1 } @options;
    my $password = $credentials =~ /^wrong/ ? 'wrong' : 'secret';
    my $request = HTTP::Request->new(POST => $url);
    $request->header('Content-Type' => $has{text} ? 'text/plain' : 'application/json; charset=utf-8');
    $request->header('Content-Encoding' => 'gzip') if $has{gzip};
    $request->header('Expect' => '100-continue') if $has{expect};
    $request->authorization_basic('mx', $password) if $credentials =~ /^(once|wrong)$/;
    $agent->{mx_password} = $credentials =~ /challenge$/ ? $password : undef;
    my $content = content_of($body);
    if ($has{chunked}) {
        # A body of a length that LWP does not know.
        $request->content(sub { substr $content, 0, 16384, '' });
    } else {
        $request->content($content);
    }
    $agent->timeout($has{impatient} ? 1 : 30);
    my $answer = $agent->request($request);
    return $answer->code unless ($answer->header('Client-Warning') // '') eq 'Internal response';
    return $answer->message =~ /timeout/ ? 'timed out' : $answer->message;
}

while (my $line = <STDIN>) {
    chomp $line;
    my ($name, @requests) = split /\t/, $line;
    my $agent = Agent->new(keep_alive => 1);
    my @answers = map { post($agent, split / /) } @requests;
    print "$name\t@answers\n";
}
