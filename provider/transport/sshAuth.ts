import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { type AnyAuthMethod, utils } from "ssh2";
import { messageOf } from "../lib/errors";
import { TransportError } from "./errors";

/** The parts of `connection.ssh` that say who we are. */
export interface Credentials {
  readonly user: string;
  readonly keyFile?: string | undefined;
  readonly passwordEnv?: string | undefined;
}

const defaultKeys = ["id_ed25519", "id_ecdsa", "id_rsa"];

/**
 * What to try, in order: the key file where one is named (and then no other key), else ssh-agent and the usual key files; last the password.
 * Read at call time: nothing of it is in Pulumi's state.
 */
export function authMethods(host: string, credentials: Credentials): AnyAuthMethod[] {
  const username = credentials.user;
  const secret = credentials.passwordEnv === undefined ? undefined : passwordFrom(host, credentials.passwordEnv);
  const methods: AnyAuthMethod[] = [];
  if (credentials.keyFile !== undefined) {
    methods.push({ type: "publickey", username, key: namedKey(host, expandHome(credentials.keyFile), secret) });
  } else {
    if (process.env.SSH_AUTH_SOCK) methods.push({ type: "agent", username, agent: process.env.SSH_AUTH_SOCK });
    for (const file of defaultKeys) {
      const key = usualKey(join(homedir(), ".ssh", file), secret);
      if (key) methods.push({ type: "publickey", username, key });
    }
  }
  if (secret !== undefined) {
    methods.push({ type: "password", username, password: secret });
    methods.push({
      type: "keyboard-interactive",
      username,
      prompt: (_name, _instructions, _lang, prompts, finish) => finish(prompts.map(() => secret)),
    });
  }
  return methods;
}

/** What was tried, for an error message. */
export function describeMethods(methods: readonly AnyAuthMethod[]): string {
  return methods.length === 0
    ? "nothing to try: no key file, no ssh-agent, no password"
    : `tried ${methods.map((method) => method.type).join(", ")}`;
}

export const expandHome = (path: string): string => (path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path);

function passwordFrom(host: string, variable: string): string {
  const value = process.env[variable];
  if (value !== undefined && value !== "") return value;
  throw new TransportError({
    host,
    kind: "auth",
    step: "log in by SSH",
    reason: `the environment variable ${variable} (passwordEnv) is not set`,
    next: `set ${variable} and run the same command again`,
  });
}

function namedKey(host: string, path: string, passphrase: string | undefined) {
  const fault = (reason: string, next: string) =>
    new TransportError({ host, kind: "auth", step: `read the key file ${path}`, reason, next });
  let text: Buffer;
  try {
    text = readFileSync(path);
  } catch (error) {
    throw fault(messageOf(error), "correct connection.ssh.keyFile");
  }
  const key = utils.parseKey(text, passphrase);
  if (key instanceof Error)
    throw fault(key.message, "name the variable that holds its passphrase in connection.ssh.passwordEnv, or use ssh-agent");
  return key;
}

/** A key of the usual place, if it is there and can be opened. */
function usualKey(path: string, passphrase: string | undefined) {
  try {
    const key = utils.parseKey(readFileSync(path), passphrase);
    return key instanceof Error ? undefined : key;
  } catch {
    return undefined;
  }
}
