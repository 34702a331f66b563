// The pages of the site, in the order of its sidebar. Each is a file of the repository: the site holds no text of its own but
// its first page.

/**
 * @typedef {object} Page
 * @property {string} title in the sidebar
 * @property {string} file in the repository; it ends up at the same path without `docs/`
 * @property {readonly string[]} [sections] of that file alone, by their headings
 * @property {boolean} [opening] with what stands above the file's first section
 */

/** @type {readonly { title: string, pages: readonly Page[] }[]} */
export const CONTENTS = [
  {
    title: "Begin",
    pages: [
      { title: "Quick start", file: "README.md", sections: ["Install", "Next"], opening: true },
      { title: "What it does", file: "README.md", sections: ["What it does", "Command line"] },
    ],
  },
  {
    title: "The tour",
    pages: [
      { title: "1. Install", file: "docs/tour/1-install.md" },
      { title: "2. Look before you load", file: "docs/tour/2-inspect.md" },
      { title: "3. First words", file: "docs/tour/3-first-words.md" },
      { title: "4. In code", file: "docs/tour/4-in-code.md" },
      { title: "5. The price of quantizing", file: "docs/tour/5-evaluate.md" },
      { title: "6. Chat", file: "docs/tour/6-chat.md" },
      { title: "7. Serve", file: "docs/tour/7-serve.md" },
      { title: "8. In a page", file: "docs/tour/8-page.md" },
      { title: "9. Fine-tune", file: "docs/tour/9-fine-tune.md" },
      { title: "10. Ship", file: "docs/tour/10-ship.md" },
    ],
  },
  {
    title: "Guides",
    pages: [
      { title: "8 and 4 bits", file: "docs/eight-and-four-bits.md" },
      { title: "A scheme for each linear", file: "docs/quantization.md" },
      { title: "Models bigger than memory", file: "docs/offload.md" },
      { title: "Generating text", file: "docs/generate.md" },
      { title: "Pipelines", file: "docs/pipelines.md" },
      { title: "Fine-tuning", file: "docs/fine-tuning.md" },
      { title: "Evaluating", file: "docs/evaluate.md" },
      { title: "In the browser", file: "docs/browser.md" },
      { title: "Deploying", file: "docs/deploy.md" },
      { title: "Where it runs", file: "docs/running.md" },
    ],
  },
  {
    title: "Coming from",
    pages: [
      { title: "Python", file: "docs/python.md" },
      { title: "transformers.js", file: "docs/transformers-js.md" },
    ],
  },
  {
    title: "Reference",
    pages: [
      { title: "Errors", file: "docs/errors.md" },
      { title: "Numerics", file: "docs/numerics.md" },
      { title: "Measured", file: "docs/measured.md" },
    ],
  },
];

/** Where a page lies in the site, such as `tour/1-install`. @param {Page} page */
export const placeOf = ({ title, file, sections }) =>
  sections ? title.toLowerCase().replace(/\W+/g, "-") : file.replace(/^docs\//, "").replace(/\.md$/, "");
