/** Pulumi resources for User-Mode-Linux VMs that move live between hosts. */

/** What the engine calls, found by the `__provider` string that every resource's state holds. Not for programs. */
export { hostHandler } from "./reconcile/host";
export { linkHandler } from "./reconcile/link";
export { vmHandler } from "./reconcile/vm";
export { Host, type HostArgs } from "./resources/host";
export { Link, type LinkArgs, type LinkEndArgs } from "./resources/link";
export { Vm, type VmArgs } from "./resources/vm";

/** The shapes behind the resources, for whoever validates more than one resource at once. */
export * as schemas from "./schemas/public";
