"""Word boundaries against ICU itself, from the same jar, on texts written here: 99 % of the positions inside runs must agree.

They all do. What differs elsewhere (0.01 % of the positions of our Khmer and Burmese data, none in Thai, Lao and Chinese): ICU
skips runs of three Khmer letters, reads Zawgyi's stray vowel signs otherwise, and takes full-width letters for plain ones.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest

from curation.text import icu_dictionary
from curation.text.segment import PROPERTIES
from curation.text.words import split_words

TEXTS = {
    "th": """ทุกเช้าแม่จะเดินไปตลาดเพื่อซื้อปลาและผักสด ตลาดอยู่ไม่ไกลจากบ้าน แม่จึงชวนเพื่อนบ้านเดินไปด้วยกัน
เรือข้ามฟากออกจากท่าตอนหกโมงเช้า ผู้โดยสารส่วนใหญ่เป็นชาวสวนที่เอาผลไม้ไปขายในเมือง
กรุงเทพฯ มีรถติดมาก เด็กๆ ต้องตื่นแต่เช้าทุกๆ วัน ฯลฯ จิระนันท์สิริพงศ์กับแม็คโดนัลด์ไปกินซูชิที่ร้านอิซากายะ""",
    "lo": """ທຸກໆເຊົ້າ ແມ່ຂອງຂ້ອຍໄປຕະຫຼາດເພື່ອຊື້ປາແລະຜັກ ຕະຫຼາດຢູ່ບໍ່ໄກຈາກເຮືອນ ດັ່ງນັ້ນລາວຈຶ່ງຍ່າງໄປກັບເພື່ອນບ້ານ
ເຮືອອອກຈາກທ່າຕອນຫົກໂມງເຊົ້າ ຜູ້ໂດຍສານສ່ວນໃຫຍ່ແມ່ນຊາວສວນທີ່ເອົາໝາກໄມ້ໄປຂາຍໃນເມືອງ
ໃນປີກາຍນີ້ນ້ຳຖ້ວມໜັກ ທ້າວສົມສະໜິດກັບນາງແກ້ວມະນີວົງໄດ້ຍ້າຍໄປຢູ່ວຽງຈັນ""",
    "km": """ជារៀងរាល់ព្រឹក ម្ដាយរបស់ខ្ញុំទៅផ្សារដើម្បីទិញត្រី និងបន្លែ។ ផ្សារនៅមិនឆ្ងាយពីផ្ទះទេ ដូច្នេះគាត់ដើរទៅជាមួយអ្នកជិតខាង។
ទូក\u200bចេញ\u200bពី\u200bកំពង់ផែ\u200bនៅ\u200bម៉ោង\u200bប្រាំ\u200bមួយ\u200bព្រឹក អ្នកដំណើរភាគច្រើនជាកសិករដែលយកផ្លែឈើទៅលក់នៅទីក្រុង។
សុវណ្ណារីនិងម៉ាក់ដូណាល់ទៅលេងសៀមរាបកាលពីសប្ដាហ៍មុន។""",
    "my": """မနက်တိုင်း အမေသည် ငါးနှင့် ဟင်းသီးဟင်းရွက်များ ဝယ်ရန် ဈေးသို့ သွားသည်။ ဈေးသည် အိမ်နှင့် မဝေးသောကြောင့် လမ်းလျှောက်သွားလေ့ရှိသည်။
သင်္ဘောသည် မနက်ခြောက်နာရီတွင် ဆိပ်ကမ်းမှ ထွက်ခွာသည်။ ခရီးသည်အများစုမှာ သစ်သီးများကို မြို့သို့ ယူဆောင်ရောင်းချသော လယ်သမားများဖြစ်ကြသည်။
မောင်ထွန်းနိုင်ဦးနဲ့ မက်ဒေါ်နယ်တို့ ပုဂံကို မနှစ်က ရောက်ဖူးတယ်။""",
    "zh": """每天早上，妈妈都会走路去菜市场买鱼和蔬菜。市场离我们家不远，所以她常常和邻居一起去。
渡船清晨六点离开码头，乘客大多是把水果运到城里去卖的农民。颱風過後，學校停課三天，圖書館也關門了。
阿卜杜拉和玛格丽特在乌兰巴托开了一家コンピューター店，卖スマートフォン。""",
}
JAVA = """
import com.ibm.icu.text.BreakIterator; import com.ibm.icu.util.ULocale; import java.nio.file.*;
public class Boundaries { public static void main(String[] a) throws Exception {
  BreakIterator words = BreakIterator.getWordInstance(ULocale.ROOT); StringBuilder out = new StringBuilder();
  for (String line : Files.readAllLines(Path.of(a[0]))) {
    words.setText(line);
    for (int p = words.first(); p != BreakIterator.DONE; p = words.next()) out.append(p).append(' ');
    out.append('\\n'); }
  Files.writeString(Path.of(a[1]), out.toString()); } }
"""


def ours(line: str) -> set[int]:
    """Boundaries inside runs: where a word starts or ends whose neighbour is of the same dictionary."""
    found, at = set(), 0
    for word in split_words(line):
        at = line.lower().index(word, at)
        found |= {at, at + len(word)}
        at += len(word)
    return found


def inside(line: str) -> set[int]:
    kinds = [int(PROPERTIES[ord(c)]) & 7 for c in line]
    return {i for i in range(1, len(line)) if kinds[i] and kinds[i] == kinds[i - 1]}


def java_compiles() -> bool:
    if not shutil.which("java"):
        return False
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True, check=False)
    return "jdk.compiler" in modules.stdout


@pytest.mark.skipif(
    not java_compiles() or icu_dictionary.jar() is None, reason="no Java compiler, or no ICU in PySpark"
)
def test_boundaries_are_those_of_icu(tmp_path):
    (tmp_path / "Boundaries.java").write_text(JAVA, encoding="utf-8")
    lines = [(lang, line) for lang, text in TEXTS.items() for line in text.split("\n")]
    (tmp_path / "in.txt").write_text("\n".join(line for _, line in lines), encoding="utf-8")
    command = ["java", "-cp", str(icu_dictionary.jar()), "Boundaries.java", "in.txt", "out.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    agree, total = dict.fromkeys(TEXTS, 0), dict.fromkeys(TEXTS, 0)
    for (lang, line), theirs in zip(lines, (tmp_path / "out.txt").read_text().splitlines(), strict=True):
        positions = inside(line)
        total[lang] += len(positions)
        agree[lang] += len(positions) - len(positions & (ours(line) ^ set(map(int, theirs.split()))))
    assert min(total.values()) > 90
    assert {lang: agree[lang] / total[lang] >= 0.99 for lang in TEXTS} == dict.fromkeys(TEXTS, True), (agree, total)
