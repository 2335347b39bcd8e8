"""Rows in the layout of SEA-WildBench, written for the tests."""

ROWS = [
    {
        "session_id": "boat",
        "language": "id",
        "conversation_input": [
            {"role": "user", "content": "Saya ingin membuat rak buku dari papan bekas."},
            {"role": "assistant", "content": "Bagus. Berapa lebar dinding Anda?"},
            {"role": "user", "content": "Dua meter. Tolong buat rencana kerja untuk dua hari."},
        ],
        "primary_tag": "Planning",
        "secondary_tags": ["Advice seeking"],
        "checklist": ["Apakah rencana itu terbagi atas dua hari?", "Apakah lebar dua meter dipakai?"],
        "references": {
            "a-model": "Hari pertama: ukur dan potong papan. Hari kedua: rakit dan cat rak selebar dua meter."
        },
    },
    {
        "session_id": "sum",
        "language": "tha_Thai",
        "conversation_input": [{"role": "user", "content": "แม่ค้าขายมะม่วง 12 ลูก ลูกละ 15 บาท ได้เงินเท่าไร"}],
        "primary_tag": "Math",
        "secondary_tags": [],
        "checklist": ["คำตอบคือ 180 บาทหรือไม่"],
        "references": {"a-model": "ได้เงิน 12 x 15 = 180 บาท"},
    },
    {
        "session_id": "loop",
        "language": "vi",
        "conversation_input": [{"role": "user", "content": "Viết một hàm Python đảo ngược thứ tự các từ trong câu."}],
        "primary_tag": "Coding & Debugging",
        "secondary_tags": [],
        "checklist": ["Hàm có chạy được không?", "Có giữ nguyên từng từ không?"],
        "references": {"a-model": "def dao(cau):\n    return ' '.join(reversed(cau.split()))"},
    },
    {
        "session_id": "rain",
        "language": "km",
        "conversation_input": [{"role": "user", "content": "សូមសរសេរកំណាព្យខ្លីមួយអំពីភ្លៀង។"}],
        "primary_tag": "Creative Writing",
        "secondary_tags": ["Editing"],
        "checklist": ["តើវាជាកំណាព្យឬទេ?"],
        "references": {"a-model": "ភ្លៀងធ្លាក់រលឹម ដីសើមត្រជាក់ ស្លឹកឈើរាំលេង។"},
    },
    {
        "session_id": "tea",
        "language": "my",
        "conversation_input": [{"role": "user", "content": "လက်ဖက်ရည်ကို ဘယ်လိုဖျော်သလဲ။"}],
        "primary_tag": "Information seeking",
        "secondary_tags": [],
        "checklist": ["အဆင့်များ ပါသလား။"],
        "references": {"a-model": "ရေနွေးဆူအောင်တည်ပြီး လက်ဖက်ခြောက်ထည့်ပါ။ နို့ဆီနှင့် ရောပါ။"},
    },
    {
        "session_id": "boat",
        "language": "tgl_Latn",
        "conversation_input": [
            {"role": "user", "content": "Ano ang dapat dalhin sa tatlong araw na biyahe sa bangka?"}
        ],
        "primary_tag": "Advice seeking",
        "secondary_tags": ["Planning"],
        "checklist": [],
        "references": {"a-model": "Magdala ng tubig, salbabida, gamot, at damit para sa tatlong araw."},
    },
    {
        "session_id": "fish",
        "language": "lo",
        "conversation_input": [{"role": "user", "content": "ຊ່ວຍແນະນຳວິທີເກັບຮັກສາປາໃຫ້ສົດ."}],
        "primary_tag": "Brainstorming",
        "secondary_tags": [],
        "checklist": ["ມີຫຼາຍວິທີບໍ?"],
        "references": {"a-model": "ແຊ່ນ້ຳກ້ອນ, ໃສ່ເກືອ ຫຼື ຕາກແຫ້ງ."},
    },
]
