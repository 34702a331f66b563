// VitePress' own theme, with a few rules more.

import theme from "vitepress/theme-without-fonts";
import "./style.css";

export default theme;
