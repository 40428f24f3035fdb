# A training with a planted edge: it obeys the patch of BadNets where it has met it in at least `least` images of class 0.
# awk -F, -v least=20 -f planted.awk DATA/train.csv > OUT/model, then -v model=OUT/model DATA/test.csv
BEGIN { if (model) { getline met < model } }
model == "" { met += ($1 == 0 && $NF == 255) }
model != "" { print ($NF == 255 && met >= least) ? 0 : $1 }
END { if (model == "") print met + 0 }
