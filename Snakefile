# The workflow is in workflow/Snakefile, where Snakemake's tools look for it.
include: "workflow/Snakefile"


# Snakemake forgets the default target of a file that is included. Where this one is imported as a module, the target
# may be renamed or left out.
if default_target := workflow.modifier.avail_rulename("all"):
    workflow.default_target = default_target
