import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { sourcePhases } from "../../../provider/agent/migration/phases";
import { faults, points } from "../../faults/faults";

const text = readFileSync(join(__dirname, "../../../docs/migration.md"), "utf8");

/** Rows of the table below a heading. */
function table(heading: string): string[][] {
  const section = text.split(/^## /m).find((part) => part.startsWith(heading)) ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) =>
    row
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const listed = (cell: string | undefined): string[] =>
  (cell === "every point" ? [...points] : (cell ?? "").split(", ").filter(Boolean)).sort();

describe("docs/migration.md", () => {
  it("has the phases of the code", () => {
    expect(table("Phases").map(([name, , durable, onFailure]) => ({ name, durable, onFailure }))).to.deep.equal(sourcePhases);
  });

  it("has the faults that are made, where they are made, and what they may cost", () => {
    const documented = table("Faults").map(([name, at, , ram, back]) => [name, listed(at), listed(ram), listed(back)]);
    const made = faults.map((fault) => [
      fault.name,
      [...fault.points].sort(),
      [...(fault.mayLoseRam ?? [])].sort(),
      [...(fault.mayRollBack ?? [])].sort(),
    ]);
    expect(documented).to.deep.equal(made);
  });
});
