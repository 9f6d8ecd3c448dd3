import * as pulumi from "@pulumi/pulumi";

/** A plain type as a Pulumi program may give it: every value at every depth may be an Output. */
export type DeepInput<T> = pulumi.Input<T extends object ? { [K in keyof T]: DeepInput<T[K]> } : T>;

/** The properties of a resource as a program gives them. */
export type Args<T> = { [K in keyof T]: DeepInput<T[K]> };

/**
 * What Pulumi keeps in the state to find a resource's code: it requires the installed package, so a newer package is the code of every
 * operation from then on. Never change these strings: they stand in the state of every stack.
 */
export const providerOf = (resource: "host" | "vm" | "link"): string =>
  `exports.handler = () => require("@mobitopolo/provider").${resource}Handler`;

/** Type tokens, by which the engine finds the dynamic-provider process. */
export const typeOf = (resource: "Host" | "Vm" | "Link"): string => `pulumi-nodejs:dynamic/mobitopolo:${resource}`;

/**
 * The URN that a resource will have: a dynamic provider is not told it otherwise. A promise, not an Output, since the URN of a parent component
 * would carry a dependency on all its children: the resource would wait for itself.
 */
export function urnOf(type: string, name: string, parent?: pulumi.Resource): Promise<string> {
  const urn = pulumi.createUrn(name, type, parent);
  return new Promise((resolve) => {
    urn.apply(resolve);
  });
}
