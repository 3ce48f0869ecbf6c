"""Scorers: pure functions from outputs and truths to numbers; no model, no files, no torch.

Which scorer is for what, and which definitions of it are in use. Where the field disagrees, the
definition has a name, the default comes first, and the name belongs beside the number.

    benchmark               scorer                                    variants
    VQAv2                   vqa.vqa_score                             normalised, strict, lmms
    OK-VQA                  vqa.okvqa_score                           normalised, strict, lmms
    VizWiz                  vqa.vizwiz_score, vqa.answerability       normalised, lmms
    TextVQA                 textvqa.m4c_score
    GQA                     gqa.gqa_match                             official, llava, lmms
    POPE                    pope.pope_label, pope.pope_rates
    MME                     mme.mme_label, mme.mme_scores
    VSR                     yesno.truth_value, roc_auc,
                            average_precision
    RefCOCO/+/g, OCID-Ref   boxes.box_hit (0.5; 0.25)                 iou, inclusive, giou
    AI2D, SEED, ScienceQA,  choice.letter                             letter, first_letter,
    MMBench, MMMU, MMLU                                               exact_letter, option_text
    MMBench, circular       choice.rotations, choice.circular_scores
    TallyQA                 counting.number, count_match,             number, vila_number
                            root_mean_square_error
    COCO, Flickr30k, NoCaps captions.score_captions: CIDEr-D,
                            BLEU-1..4, ROUGE-L
                            java_captions.meteor, spice (optional)
    PathVQA                 pathvqa.yes_no_score, exact_match,        published_scores (the
                            token_f1, bleu                            publisher's wrong formulas)
    DROP                    drop.drop_score: exact match, F1
    DocVQA, InfographicVQA  documents.rrc_anls, anls
    ChartQA                 relaxed.relaxed_match
    OCRBench                documents.ocrbench_match
    MMStar                  choice.mmstar_letter
    MMMU-Pro                choice.mmmu_pro_letter
    MathVista               mathvista.extract, normalise
    NaturalBench            groups.naturalbench_label, naturalbench_scores
    AMBER (yes/no)          groups.amber_label, amber_rates
    VQA-RAD, SLAKE          pathvqa.yes_no_score, exact_match, token_recall
    MM-SafetyBench          refusals.vlguard_refusal (its judge: eval.attacks)
    captions of the         mentions.chair_scores
    miniature world
    miniature world         exact.exact_match, boxes.box_hit,
                            cider.cider_d

Underneath: `outputs` (whatever came back as text), `declared` (which letter an output declares),
`answers` (how VQA scripts normalise), `ptb` (Stanford's tokens without Java), `ngrams` (counts as
arrays).

Scores are between 0 and 1, CIDEr-D between 0 and 10, MME as published. An output may be anything
(None, a number, bytes, a list, text of any length and Unicode): `outputs.as_text` says which text
is scored, the score is usually 0, and nothing raises. A truth may not: a wrong number of
references, no options, an unknown variant raise `DataError`.
"""
