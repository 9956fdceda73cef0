"""What a step is given: latents of pictures, further prompts, and answers to its noising."""
