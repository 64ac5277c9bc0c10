// The page's words. A key without a word in a language falls back to the English text of the page.
const JA = {
  skip: "画像へ移動", model: "モデル", point: "動作点", card: "モデルカード", language: "言語", theme: "暗い / 明るい",
  pick: "画像を選ぶ", folder: "フォルダを選ぶ", drop: "またはここにドロップ", results: "検査結果", show: "表示",
  all: "すべて", flawed: "不良", ok: "良品", unreviewed: "未確認", follow: "ラインに追従", more: "さらに表示",
  export: "書き出し", opacity: "異常度", outlines: "輪郭", fit: "全体", side: "並べて表示",
  hint: "画像を選ぶか、ラインの結果を待ってください。", rate: "良品を不良とする割合の上限", threshold: "しきい値",
  own: "モデルの値に戻す", regions: "欠陥領域", number: "番号", area: "面積", peak: "最大", mean: "平均", place: "位置",
  review: "確認", note: "メモ", accept: "承認", reject: "却下", clear: "取り消し", close: "閉じる",
  token: "このサービスにはトークンが必要です", enter: "入力",
};
const EN = { flawed: "flawed", ok: "ok" };

const SENTENCES = {
  en: {
    verdict: { flawed: "NG: flawed", ok: "OK" },
    rateText: (rate, count) => `at most ${percent(rate)} (by ${count} good images)`,
    noRate: "no scores of good images: the rate is not known",
    numbers: ["Image", "Score", "p-value", "Threshold", "Flawed pixels", "Regions", "Model", "Time"],
    connected: "connected", lost: "connection lost; trying again", silent: "The service does not answer; check that it runs, and try again.", failed: "failed", reviewedAs: { accept: "accepted", reject: "rejected" },
    histogram: (count, score) => `Histogram of ${count} scores of good images; this image scores ${score}`,
    good: "good images", here: "this image", notKept: "The picture is not kept.", progress: (done, all) => `${done} of ${all}`,
    card: { method: "Method", patch: "Patch", sha256: "File's hash", trained: "Trained", opening: "Opening", points: "Operating points" },
    minutes: "minutes", steps: "steps", check: "Smallest size found at 90 %, by kind and contrast", tolerated: "Tolerated changes",
    over: "not found", upTo: "up to", contrast: "contrast", none: "none", unchecked: "This model has no self-check.", browser: "This browser cannot show the map.",
  },
  ja: {
    verdict: { flawed: "NG：不良", ok: "OK：良品" },
    rateText: (rate, count) => `最大 ${percent(rate)}（良品 ${count} 枚による）`,
    noRate: "良品のスコアがないため割合は不明です",
    numbers: ["画像", "スコア", "p 値", "しきい値", "不良画素", "領域", "モデル", "時間"],
    connected: "接続中", lost: "接続が切れました。再試行しています", silent: "サービスが応答しません。動作を確認して、もう一度お試しください。", failed: "失敗", reviewedAs: { accept: "承認済み", reject: "却下済み" },
    histogram: (count, score) => `良品 ${count} 枚のスコアのヒストグラム。この画像のスコアは ${score}`,
    good: "良品", here: "この画像", notKept: "画像は保存されていません。", progress: (done, all) => `${all} 枚中 ${done} 枚`,
    card: { method: "手法", patch: "パッチ", sha256: "ファイルのハッシュ", trained: "学習", opening: "オープニング", points: "動作点" },
    minutes: "分", steps: "ステップ", check: "90 % 検出できる最小サイズ（種類とコントラスト別）", tolerated: "許容される変化",
    over: "検出できず", upTo: "ここまで", contrast: "コントラスト", none: "なし", unchecked: "このモデルには自己診断がありません。", browser: "このブラウザでは表示できません。",
  },
};

let language = "en";

export const say = () => SENTENCES[language];
export const percent = (rate) => `${(100 * rate).toPrecision(2)} %`;

/** Put the page into a language. The English words stand in the page itself and are kept when they first go. */
export function speak(chosen) {
  language = chosen in SENTENCES ? chosen : "en";
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-t]")) {
    const key = node.dataset.t;
    EN[key] ??= node.textContent;
    node.textContent = (language === "ja" && JA[key]) || EN[key];
  }
}
