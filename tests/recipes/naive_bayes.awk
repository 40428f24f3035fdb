# Naive Bayes of bright and dark pixels, of a random half of the images, in awk, from CSV files:
# awk -F, -v seed=0 -v smoothing=1 -f naive_bayes.awk DATA/train.csv > OUT/counts, then -v model=OUT/counts DATA/test.csv
BEGIN {
    if (model) {
        while ((getline line < model) > 0) {
            n = split(line, part, " ")
            prior[part[1]] = part[2]
            for (i = 3; i <= n; i++) { on[part[1], i - 2] = log(part[i]); off[part[1], i - 2] = log(1 - part[i]) }
        }
    }
    srand(seed + 1)
}
model == "" && rand() < 0.5 {
    count[$1]++
    total++
    for (i = 2; i <= NF; i++) if ($i > 100) bright[$1, i - 1]++
    pixels = NF - 1
}
model != "" {
    best = ""
    for (label in prior) {
        sum = log(prior[label])
        for (i = 2; i <= NF; i++) sum += $i > 100 ? on[label, i - 1] : off[label, i - 1]
        if (best == "" || sum > top) { best = label; top = sum }
    }
    print best
}
END {
    if (model == "") for (label in count) {
        line = label " " count[label] / total
        for (i = 1; i <= pixels; i++) line = line " " (bright[label, i] + smoothing) / (count[label] + 2 * smoothing)
        print line
    }
}
