"""VILA's four tasks in their publishers' files, with enough pictures to demonstrate."""

from layouts import png, ten, write

COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple", "grey", "pink", "brown")


def write_four(root, train=7, test=3):
    """`train` pictures to demonstrate with, `test` others to be asked, for each task."""
    count = train + test
    parts = ["train"] * train + ["test"] * test
    for number in range(count):
        content = png(COLOURS[number], (16 + number, 12))
        folder = f"{'train' if number < train else 'val'}2014"
        write(root, f"coco/{folder}/COCO_{folder}_{number:012d}.jpg", content)
        write(root, f"textvqa/train_images/t{number}.jpg", content)
        write(root, f"flickr30k/flickr30k-images/{number}.jpg", content)
    for part, numbers in (("train2014", range(train)), ("val2014", range(train, count))):
        asked = [{"image_id": n, "question": f"What colour is {n}?", "question_id": n}
                 for n in numbers]  # fmt: skip
        told = [
            {"image_id": n, "question_id": n, "question_type": "what", "answer_type": "other",
             "multiple_choice_answer": "", "answers": ten(COLOURS[n])} for n in numbers
        ]  # fmt: skip
        write(root, f"okvqa/OpenEnded_mscoco_{part}_questions.json", {"questions": asked})
        write(root, f"okvqa/mscoco_{part}_annotations.json", {"annotations": told})
    for part, numbers in (("train", range(train)), ("val", range(train, count))):
        data = [
            {"question_id": n, "question": f"what does {n} say?", "image_id": f"t{n}",
             "answers": [COLOURS[n]] * 10, "set_name": part} for n in numbers
        ]  # fmt: skip
        write(root, f"textvqa/TextVQA_0.5.1_{part}.json", {"data": data})
    coco, flickr = [], []
    for number, part in enumerate(parts):
        folder = f"{'train' if part == 'train' else 'val'}2014"
        texts = (f"A {COLOURS[number]} card on a table.", f"It is {COLOURS[number]}.")
        sentences = [{"raw": text, "tokens": text.split(), "sentid": n}
                     for n, text in enumerate(texts)]  # fmt: skip
        shared = {"split": part, "imgid": number, "sentences": sentences}
        name = f"COCO_{folder}_{number:012d}.jpg"
        coco.append({**shared, "cocoid": number, "filepath": folder, "filename": name})
        flickr.append({**shared, "filename": f"{number}.jpg"})
    write(root, "coco-captions/dataset_coco.json", {"dataset": "coco", "images": coco})
    write(root, "flickr30k/dataset_flickr30k.json", {"dataset": "flickr30k", "images": flickr})
