"""The mathematics of diffusion: torch only; no config, no files, no networks.

Read in this order: levels, schedules, parameterizations, gaussian, denoiser, losses, grids, noise,
guidance, samplers. Everything is `x_t = alpha_t * x0 + sigma_t * eps`: x0 is data, t = 0 is data,
t = t_max is noise.
"""
