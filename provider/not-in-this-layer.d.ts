// Deliberately no module. A layer's tsconfig maps the packages that it must not see to this file, so that importing one of them does not compile.
