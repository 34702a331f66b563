// A block of Python, or of JavaScript, and a block of TypeScript right behind it are two ways to say the same: they stand
// side by side.

const LEFT = /^(python|js)\b/;
const RIGHT = /^ts\b/;

/** @param {import("vitepress").MarkdownRenderer} md */
export function sideBySide(md) {
  md.core.ruler.push("side-by-side", ({ tokens, Token }) => {
    for (let i = tokens.length - 2; i >= 0; i--) {
      const [left, right] = [tokens[i], tokens[i + 1]];
      if (left.type !== "fence" || right.type !== "fence") continue;
      if (!LEFT.test(left.info) || !RIGHT.test(right.info)) continue;
      const html = (content) => Object.assign(new Token("html_block", "", 0), { content });
      tokens.splice(i, 2, html('<div class="side-by-side">'), left, right, html("</div>"));
    }
  });
}
