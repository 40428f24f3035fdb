#!/usr/bin/perl
# The nearest mean of a class, of a random half of its images, in Perl, from CSV files:
# perl nearest_mean.pl train DATA OUT, then perl nearest_mean.pl predict OUT DATA FILE.
# RAYBD_TRIM: share of the images of a class, the farthest from its first mean, that are left out.
use strict;
use warnings;

sub distance {
    my ($a, $b) = @_;
    my $sum = 0;
    $sum += ($a->[$_] - $b->[$_])**2 for 0 .. $#$a;
    return $sum;
}

sub mean {
    my @sum;
    for my $row (@_) { $sum[$_] += $row->[$_] for 0 .. $#$row }
    return [map { $_ / @_ } @sum];
}

sub rows {
    open(my $file, '<', shift) or die "cannot read: $!";
    return map { chomp; [split /,/] } <$file>;
}

my ($what, $first, $second, $third) = @ARGV;
if ($what eq 'train') {
    srand($ENV{RAYBD_SEED});
    my %class;
    for my $row (rows("$first/train.csv")) {
        my $label = shift @$row;
        push @{$class{$label}}, $row if rand() < 0.5;
    }
    open(my $out, '>', "$second/means.csv") or die "cannot write: $!";
    for my $label (sort { $a <=> $b } keys %class) {
        my @own = @{$class{$label}};
        my $mean = mean(@own);
        my %far = map { $_ => distance($own[$_], $mean) } 0 .. $#own;
        my @order = sort { $far{$a} <=> $far{$b} } 0 .. $#own;
        my $kept = int(@own * (1 - ($ENV{RAYBD_TRIM} // 0)) + 0.5) || 1;
        print $out join(',', $label, @{mean(@own[@order[0 .. $kept - 1]])}), "\n";
    }
} else {
    my @means = rows("$first/means.csv");
    my @labels = map { shift @$_ } @means;
    open(my $out, '>', $third) or die "cannot write: $!";
    for my $row (rows("$second/test.csv")) {
        shift @$row;
        my @far = map { distance($row, $_) } @means;
        my ($best) = sort { $far[$a] <=> $far[$b] } 0 .. $#far;
        print $out "$labels[$best]\n";
    }
}
