/** `mobitopolo gc`: removes kernels and images from the hosts' stores that no VM there uses, and what VMs left there when they moved away. */
import { storeGc } from "../../protocol/methods";
import { explain } from "../errors";
import { Fleet } from "../fleet";
import type { Scope } from "../hosts";
import { renderTable, sizeText } from "../table";

/** @returns exit code: 0, or 1 if a host did not answer */
export async function gc(scope: Scope, options: { json?: boolean }): Promise<number> {
  await using fleet = new Fleet(scope);
  const rows = await Promise.all(
    scope.hosts.map(async ({ name }) => {
      try {
        return { name, ...(await (await fleet.agent(name)).call(storeGc, {})) };
      } catch (error) {
        return { name, removed: 0, bytes: 0, error: explain(error) };
      }
    }),
  );
  const table = renderTable(
    [{ title: "HOST" }, { title: "REMOVED", right: true }, { title: "FREED", right: true }, { title: "" }],
    rows.map((row) => [row.name, String(row.removed), sizeText(row.bytes), "error" in row ? (row.error ?? "") : ""]),
  );
  process.stdout.write(options.json === true ? `${JSON.stringify({ hosts: rows }, null, 2)}\n` : `${table}\n`);
  return rows.some((row) => "error" in row && row.error !== undefined) ? 1 : 0;
}
