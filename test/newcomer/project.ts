// A project of somebody who has just heard of Octavo: an empty folder outside of this checkout, with the package as it is
// published and nothing else.

import { type ChildProcess, spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Outcome, ROOT, ready } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";

const QUIET = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"];
/** What npm says when the registry cannot be reached and its cache does not have everything. */
const UNREACHABLE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED|E50\d/;

export class Project {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Packs this checkout and installs the package into a new project; a text says why that cannot be done here. */
  static async make(): Promise<Project | string> {
    if (whyNoWasm) return whyNoWasm;
    await ready();
    const folder = realpathSync(mkdtempSync(join(tmpdir(), "newcomer-")));
    const project = new Project(folder);
    try {
      const packed = await project.run("npm", ["pack", ROOT, "--ignore-scripts", "--loglevel=error"]);
      const [tarball] = readdirSync(folder).filter((name) => name.endsWith(".tgz"));
      if (packed.code !== 0 || tarball === undefined) throw new Error(`npm pack failed:\n${packed.stderr}`);
      project.write("package.json", `{ "name": "newcomer", "private": true, "type": "module" }\n`);
      const { code, stderr } = await project.run("npm", ["install", ...QUIET, `./${tarball}`]);
      if (code === 0) return project;
      if (!UNREACHABLE.test(stderr)) throw new Error(`npm install failed:\n${stderr}`);
      project.remove();
      return "the registry cannot be reached, and npm's cache lacks a dependency";
    } catch (error) {
      project.remove();
      throw error;
    }
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  write(name: string, content: string | Uint8Array): void {
    mkdirSync(join(this.path(name), ".."), { recursive: true });
    writeFileSync(this.path(name), content);
  }

  /** A program of the project or of the path, started in the project's folder; none of npm's settings of this run reach it. */
  run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
    const own = Object.entries(process.env).filter(
      ([name]) => !/^(npm_|OCTAVO_|VITEST|NODE_(OPTIONS|ENV|PATH)$|INIT_CWD$)/i.test(name),
    );
    return new Promise((resolve, reject) => {
      const child: ChildProcess = spawn(command, args, {
        cwd: this.folder,
        // What the add-on's script and the library keep for the user stays in the project, too.
        env: { ...Object.fromEntries(own), XDG_CACHE_HOME: this.path(".cache"), ...env },
        stdio: ["ignore", "pipe", "pipe"],
        shell: process.platform === "win32",
      });
      let stdout = "";
      let stderr = "";
      child.stdout!.on("data", (part: Buffer) => (stdout += part.toString()));
      child.stderr!.on("data", (part: Buffer) => (stderr += part.toString()));
      child.on("error", reject);
      child.on("close", (code) => resolve({ code, stdout, stderr }));
    });
  }

  node(...args: string[]): Promise<Outcome> {
    return this.run(process.execPath, args);
  }

  octavo(...args: string[]): Promise<Outcome> {
    return this.run("npx", ["--no-install", "octavo", ...args]);
  }

  /** The packages as the lock file has them. */
  reinstall(): Promise<Outcome> {
    return this.run("npm", ["ci", ...QUIET]);
  }

  /**
   * Builds the add-on as the hint says. Objects that this checkout has compiled from the same sources, with the same command
   * lines, are taken over: the script compares contents.
   */
  buildNative(script: string): Promise<Outcome> {
    const [from, to] = [join(ROOT, "build", "obj"), this.path("node_modules", "octavo", "build", "obj")];
    if (existsSync(join(from, "stamp.json"))) {
      cpSync(from, to, { recursive: true });
      const { objects } = JSON.parse(readFileSync(join(from, "stamp.json"), "utf8")) as { objects: unknown };
      writeFileSync(join(to, "stamp.json"), JSON.stringify({ objects }));
    }
    const { CXX, OCTAVO_CXXFLAGS } = process.env;
    return this.run(process.execPath, [script], { ...(CXX && { CXX }), ...(OCTAVO_CXXFLAGS && { OCTAVO_CXXFLAGS }) });
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
